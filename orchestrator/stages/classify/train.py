"""Classification on every rank: train, evaluate, save, and show which class was taken for which.

B examples of a micro-batch, F features, C classes.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.order import Order
from models.configs import ClassifierConfig, classifier
from orchestrator.config import JobConfig
from orchestrator.stages.classify import confusion
from orchestrator.stages.classify.examples import (
    Batch,
    PublishedExamples,
    Split,
    evaluation,
    open_split,
    steps,
)
from orchestrator.stages.classify.resuming import FACTS, facts, start_position
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.result import Result
from orchestrator.stages.run import Run
from orchestrator.training import checkpoint, distributed, engine
from orchestrator.training.checkpoint import Checkpoint, Retention, SavedRole
from orchestrator.training.engine import Engine
from orchestrator.training.loop import Metrics, Schedule, evaluate, fit
from orchestrator.training.objectives import Summed, classification
from orchestrator.training.optim import learning_rate

PICTURE = "confusion.png"


def classify(config: JobConfig, inputs: PublishedExamples, run: Run) -> Result:
    """Train, evaluate, save; every rank calls it."""
    stage = config.section(ClassifyConfig)
    train, validation = (open_split(inputs, name, run.cache) for name in ("train", "validation"))
    role = config.role("model")
    weights = role.model.weights
    trainer = engine.build(
        role.model,
        role.engine,
        role.optim,
        device=run.device,
        seed=config.seed,
        micro_batch=config.batch.micro,
        accumulation_steps=config.batch.accumulation_steps,
        reader=checkpoint.open_weights(Path(weights), verified=True).reader if weights else None,
    )
    training = Training(config, run, inputs, validation, classifier(role.model), trainer)
    start = training.restore()
    run.event("training", device=str(run.device), from_step=start.step if start else 0)
    feed = steps(
        train,
        Order(len(train), config.seed, inputs.fingerprint),
        training.position,
        stage.global_batch_size,
        config.batch.micro,
        distributed.rank(),
        distributed.world_size(),
    )
    outcome = fit(
        trainer,
        label_loss,
        feed,
        Schedule(
            stage.steps,
            stage.evaluate_every,
            stage.checkpoint_every,
            lambda step: learning_rate(config.optim, step, stage.steps),
        ),
        start_step=start.step if start else 0,
        seed=config.seed,
        unit="examples",
        trained=training.trained,
        log=training.log,
        evaluate=training.evaluate,
        save=training.save,
        should_stop=run.should_stop,
    )
    training.show()
    matrix = training.matrix
    return Result(
        steps=outcome.step,
        stopped=outcome.stopped,
        checkpoint=str(training.newest.path) if training.newest else None,
        metrics=training.latest,
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
    """What the loop calls back: log, evaluate, save; and where it starts."""

    config: JobConfig
    run: Run
    published: PublishedExamples
    validation: Split
    model_config: ClassifierConfig
    engine: Engine
    latest: Metrics = field(default_factory=dict)
    """The last value of each metric."""
    newest: Checkpoint | None = None
    """The last checkpoint saved or restored."""
    position: int = 0
    """Examples trained on, counted over all epochs."""
    matrix: confusion.Matrix | None = None
    """(C, C), of the last evaluation."""

    def __post_init__(self) -> None:
        """Nothing is kept yet."""
        self._root = self.run.folder / "checkpoints"
        kept = self.config.section(ClassifyConfig).checkpoints_kept
        self._retention = Retention(self._root, kept)

    def trained(self, batches: list[Batch]) -> None:
        """Count the examples of a step."""
        self.position += self.config.batch.step

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the metrics of an optimizer step, and how many epochs are done."""
        metrics["train/epochs"] = self.position / self.published.train
        self.latest |= metrics
        self.run.log(step, metrics)

    def evaluate(self, step: int) -> None:
        """Loss, accuracy and confusion over the whole validation split. Every rank calls it."""
        classes = self.model_config.classes
        counts = torch.zeros(classes * classes, dtype=torch.int64, device=self.engine.device)

        def counted_loss(trainer: Engine, batch: Batch) -> Summed:
            scores, labels = scores_and_labels(trainer, batch)
            pairs = labels * classes + scores.argmax(1)
            counts.add_(pairs.bincount(minlength=classes * classes))
            return classification(scores, labels)

        shares = evaluation(
            self.validation, self.config.batch.micro, distributed.rank(), distributed.world_size()
        )
        metrics = evaluate(self.engine, counted_loss, shares).metrics("validation")
        totals = distributed.sum_over_ranks(counts.tolist(), self.engine.device)
        self.matrix = np.array(totals, dtype=np.int64).reshape(classes, classes)
        self.latest |= metrics
        self.run.log(step, metrics)

    def save(self, step: int) -> None:
        """Publish the checkpoint of this step. Every rank calls it."""
        self.newest = done = checkpoint.save(
            self._root,
            step,
            {"model": SavedRole(self.engine.state, self.model_config, "adamw")},
            None,
            {FACTS: facts(self.config, self.published, self.position)},
        )
        if distributed.rank() == 0:
            self._retention.after(done)
        self.run.event(
            "checkpoint",
            step=step,
            path=str(done.path),
            bytes=done.bytes,
            manifest_sha256=done.manifest_sha256,
            data_cursor=self.position,
            metrics={k: v for k, v in self.latest.items() if k.startswith("validation/")},
        )

    def restore(self) -> Checkpoint | None:
        """Load the newest valid checkpoint of this run, else of the run to resume, if any.

        Raises ValueError if it belongs to another model or to other examples.
        """
        start, rejected = checkpoint.newest_valid_shared(self._root)
        for reason in rejected:
            self.run.event("checkpoint_rejected", reason=reason)
        if start is not None:
            self._retention.trust(start)
        elif self.config.resume is not None:
            start = checkpoint.read(Path(self.config.resume))  # the driver has verified it
        else:
            return None
        self.position = start_position(start, self.config, self.published)
        self.engine.load_state(checkpoint.open_role(start), start.step)
        self.run.event("resumed", step=start.step, path=str(start.path))
        self.newest = start
        return start

    def show(self) -> None:
        """Put the picture of the last evaluation on record."""
        if self.matrix is not None and distributed.rank() == 0:
            confusion.draw(self.matrix).savefig(self.run.folder / PICTURE, dpi=120)
        if self.matrix is not None:
            self.run.event("artifact", path=PICTURE)
