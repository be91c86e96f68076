"""Classification on every rank: train, evaluate, save, and show which class was taken for which.

B examples of a micro-batch, F features, C classes.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from data.order import Order
from models.configs import classifier
from models.cost import flops_per_sample
from orchestrator.config import JobConfig
from orchestrator.stages.checkpoints import Checkpoints
from orchestrator.stages.classify import confusion
from orchestrator.stages.classify.examples import (
    Batch,
    PublishedExamples,
    evaluation,
    open_split,
    steps,
)
from orchestrator.stages.classify.resuming import FACTS, facts, start_position
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.result import Result
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.hardware import device_name
from orchestrator.training.loop import (
    Metrics,
    Schedule,
    Trained,
    evaluate,
    every,
    fit,
    once_an_epoch,
)
from orchestrator.training.objectives import Summed, classification
from orchestrator.training.optim import learning_rate

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


@dataclass
class Training:
    """The parts of a classification run: model, examples, checkpoints; what the loop calls back."""

    config: JobConfig
    published: PublishedExamples
    run: Run
    latest: Metrics = field(default_factory=dict)
    """The last value of each metric."""
    position: int = 0
    """Examples trained on, counted over all epochs."""
    matrix: confusion.Matrix | None = None
    """(C, C), of the last evaluation."""

    def __post_init__(self) -> None:
        """Make the model, open the examples, and go to where the run goes on.

        Raises ValueError if the checkpoint belongs to another model or to other examples.
        """
        config, run = self.config, self.run
        self.stage = config.section(ClassifyConfig)
        role = config.role("model")
        self.classes = classifier(role.model).classes
        self.examples, self.validation = (
            open_split(self.published, name, run.cache) for name in ("train", "validation")
        )
        self.checkpoints = Checkpoints(run, config)
        if self.checkpoints.start is not None:
            self.position = start_position(self.checkpoints.start, config, self.published)
        self.model = self.checkpoints.build("model", role, config)
        self.checkpoints.resumed()

    def fit(self) -> Trained:
        """Train to the last step, or until a stop."""
        stage, batch, optim = self.stage, self.config.batch, self.model.config.optim
        assert optim is not None  # the role is trained
        often = stage.evaluate_every
        epochs = once_an_epoch(len(self.examples), batch.step)
        from_step = self.checkpoints.from_step
        self.run.event("training", device=device_name(self.run.device), from_step=from_step)
        order = Order(len(self.examples), self.config.seed, self.published.fingerprint)
        ranks = distributed.rank(), distributed.world_size()
        with self.checkpoints:
            return fit(
                self.model.engine,
                label_loss,
                steps(self.examples, order, self.position, batch.step, batch.micro, *ranks),
                Schedule(
                    stage.steps,
                    epochs if often is None else every(often),
                    every(stage.checkpoint_every),
                    lambda step: learning_rate(optim, step, stage.steps),
                    stage.checkpoint_every_minutes,
                    stage.keep_best,
                ),
                start_step=from_step,
                spent=self.checkpoints.spent,
                flops_per_step=flops_per_sample(self.model.config.model) * batch.step,
                seed=self.config.seed,
                unit="examples",
                trained=self.trained,
                log=self.log,
                evaluate=self.evaluate,
                save=self.save,
                before_update=self.checkpoints.before_update,
                should_stop=self.checkpoints.should_stop,
                heart=self.run.heart,
                selection=self.checkpoints.selection,
            )

    def trained(self, batches: list[Batch]) -> None:
        """Count the examples of a step."""
        self.position += self.config.batch.step

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the metrics of an optimizer step, and how many epochs are done."""
        metrics["train/epochs"] = self.position / self.published.train
        self.latest |= metrics
        self.run.log(step, metrics)

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
        self.latest |= metrics
        self.run.log(step, metrics)
        return metrics

    def save(self, step: int) -> None:
        """Begin to publish the checkpoint of this step. Every rank calls it."""
        self.checkpoints.save(
            step,
            [self.model],
            None,
            {FACTS: facts(self.config, self.published, self.position)},
            self.latest,
            data_cursor=self.position,
        )

    def show(self) -> None:
        """Put the picture of the last evaluation on record."""
        if self.matrix is not None and distributed.rank() == 0:
            confusion.draw(self.matrix).savefig(self.run.folder / PICTURE, dpi=120)
        if self.matrix is not None:
            self.run.event("artifact", path=PICTURE)
