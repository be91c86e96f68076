"""Classification on every rank: train, evaluate, save, and show which class was taken for which.

B examples of a micro-batch, F features, C classes.
"""

import numpy as np
import torch
from torch import Tensor

from models.configs import classifier
from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.stages.classify import confusion
from orchestrator.stages.classify.examples import Batch, PublishedExamples, open_split
from orchestrator.stages.classify.resuming import standard, start_position
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.examples.training import ExampleTraining
from orchestrator.stages.result import Result
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, evaluate
from orchestrator.training.objectives import Objective, Summed, classification

PICTURE = "confusion.png"


def classify(config: JobConfig, inputs: PublishedExamples, run: Run) -> Result:
    """Train, evaluate, save; every rank calls it."""
    training = Training(config, inputs, run)
    outcome = training.fit()
    training.show()
    matrix = training.matrix
    return Result(
        stopped=outcome.stopped,
        reason=training.checkpoints.reason(outcome),
        tables=() if matrix is None else (confusion.table(matrix),),
    )


def scores_and_labels(trainer: Engine, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scores (n, C) and labels (n,) of the examples of a batch that count."""
    features, labels, counted = (
        torch.from_numpy(array).to(trainer.device)
        for array in (batch.features, batch.labels, batch.counted)
    )
    return trainer.forward(features)[counted], labels[counted]


def label_loss(trainer: Engine, batch: Batch) -> Summed:
    """The objective: the negative log-likelihood of each label."""
    return classification(*scores_and_labels(trainer, batch))


class Training(ExampleTraining[Batch]):
    """A classification run: examples, evaluation, and the matrix of the last one."""

    def __init__(self, config: JobConfig, published: PublishedExamples, run: Run) -> None:
        """Open the examples, make the model, and go to where the run goes on."""
        self.published = published
        role = config.role("model")
        self.classes = classifier(role.model).classes
        self.matrix: confusion.Matrix | None = None  # (C, C), of the last evaluation
        train, self.validation = (
            open_split(published, name, run.cache) for name in ("train", "validation")
        )
        flops = flops_per_sample(role.model)
        super().__init__(
            config, run, role, train, published.fingerprint, standard(published), flops
        )

    def objective(self) -> Objective[Batch]:
        """The negative log-likelihood of each label."""
        return label_loss

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError for another model or other examples."""
        return start_position(start, self.config, self.published)

    def evaluate(self, step: int) -> Metrics:
        """Loss, accuracy and confusion over the whole validation split. Every rank calls it."""
        classes = self.classes
        counts = torch.zeros(classes * classes, dtype=torch.int64, device=self.run.device)

        def counted_loss(trainer: Engine, batch: Batch) -> Summed:
            scores, labels = scores_and_labels(trainer, batch)
            pairs = labels * classes + scores.argmax(1)
            counts.add_(pairs.bincount(minlength=classes * classes))
            return classification(scores, labels)

        shares = evaluation(
            self.validation, self.config.batch.micro, distributed.rank(), distributed.world_size()
        )
        totals = evaluate(self.model.engine, counted_loss, shares, self.run.heart)
        metrics = totals.metrics("validation")
        sums = distributed.sum_over_ranks(counts.tolist(), self.run.device)
        self.matrix = np.array(sums, dtype=np.int64).reshape(classes, classes)
        self.record(step, metrics)
        return metrics

    def show(self) -> None:
        """Put the picture of the last evaluation on record."""
        if self.matrix is not None and distributed.rank() == 0:
            confusion.draw(self.matrix).savefig(self.run.folder / PICTURE, dpi=120)
        if self.matrix is not None:
            self.run.event("artifact", path=PICTURE)
