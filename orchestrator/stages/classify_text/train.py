"""Classification of texts on every rank: train, measure, save, and show which class was taken for
which.

B texts of a micro-batch, T tokens, C classes.
"""

import numpy as np
import torch
from torch import Tensor

from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.classify import confusion
from orchestrator.stages.classify_text.driver import SAME, role_of
from orchestrator.stages.classify_text.texts import ARRAYS, Batch, PublishedTexts, Split
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.published import open_splits
from orchestrator.stages.examples.resuming import start_position
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.result import Result, Table
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate
from orchestrator.training.objectives import Objective, Summed, classification

PICTURE = "confusion.png"


def classify_text(config: JobConfig, inputs: PublishedTexts, run: Run) -> Result:
    """Train, evaluate, save; every rank calls it."""
    training = Training(config, inputs, run)
    outcome = training.fit()
    if training.checkpoints.restore_best(training.model):
        training.measure()  # for what is shown of it; its metrics are on record
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=training.show(),
        next=(("classify", "orchestrate generate {run} --prompt 'Log a message'"),),
    )


def scores_of(engine: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scores (n, C) and labels (n,) of the texts of a batch that count."""
    tokens, real, labels, counted = (
        torch.from_numpy(array).to(engine.device)
        for array in (batch.tokens, batch.real, batch.labels, batch.counted)
    )
    return engine.forward(tokens, real)[counted], labels[counted]


class Training(ExampleTraining[Batch]):
    """A run on labelled texts."""

    told: confusion.Told | None = None
    """Of the validation texts, as measured last."""

    def __init__(self, config: JobConfig, published: PublishedTexts, run: Run) -> None:
        """Open the texts, make the model, and go to where the run goes on."""
        self.classes = published.classes
        self.tokenizer = published.folder(run.cache) / TOKENIZER
        role = role_of(config, published.vocab_size, published.classes)
        train, self.validation = open_splits(Split, ARRAYS, published, run.cache)
        flops = flops_per_sample(role.model, round(published.tokens))
        super().__init__(config, run, role, train, published.fingerprint, {}, flops)

    def objective(self) -> Objective[Batch]:
        """The negative log-likelihood of each label."""
        return lambda engine, batch: classification(*scores_of(engine, batch))

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other texts."""
        return start_position(start, self.config, self.role.model, self.fingerprint, SAME)

    def measure(self) -> Metrics:
        """Loss, accuracy and confusion over the whole validation split. Every rank calls it."""
        told = torch.zeros(len(self.validation), 2, dtype=torch.int64, device=self.run.device)

        def noted_loss(engine: Engine, batch: Batch) -> Summed:
            scores, labels = scores_of(engine, batch)
            rows = torch.from_numpy(batch.sample_ids[batch.counted]).to(told.device)
            told[rows] = torch.stack([labels, scores.argmax(1)], 1)
            return classification(scores, labels)

        ranks = distributed.rank(), distributed.world_size()
        shares = evaluation(self.validation, self.config.batch.micro, *ranks)
        totals = evaluate(self.model.engine, noted_loss, shares, self.run.heart)
        sums = distributed.sum_over_ranks(told.flatten().tolist(), self.run.device)
        self.told = np.array(sums, dtype=np.int64).reshape(-1, 2)
        return totals.metrics("validation")

    def evaluate(self, step: int) -> Metrics:
        """Measure, and record that. Every rank calls it."""
        metrics = self.measure()
        self.record(step, metrics)
        return metrics

    def show(self) -> tuple[Table, ...]:
        """The table of the last measurement; its picture goes on record. Every rank calls it."""
        if self.told is None:
            return ()
        matrix = confusion.matrix_of(self.told, len(self.classes))
        if self.run.pictures:
            if distributed.rank() == 0:
                confusion.save(matrix, self.classes, self.run.folder / PICTURE)
            self.run.event("artifact", path=PICTURE)
        return (confusion.table(matrix, self.classes), confusion.accuracy_table(matrix))
