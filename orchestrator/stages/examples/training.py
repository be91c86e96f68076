"""Training on examples, on every rank: what classification and regression have in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from data.order import Order
from models.cost import flops_per_sample
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.stages.checkpoints import Checkpoints, Savable
from orchestrator.stages.examples.boundary import Boundary
from orchestrator.stages.examples.driving import examples_role
from orchestrator.stages.examples.feed import Batch, evaluation, steps
from orchestrator.stages.examples.resuming import FACTS, facts, start_position
from orchestrator.stages.examples.section import ExamplesConfig
from orchestrator.stages.examples.splits import Inputs, Split
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.hardware import device_name
from orchestrator.training.loop import (
    Metrics,
    Schedule,
    Totals,
    Trained,
    evaluate,
    evaluating,
    every,
    fit,
    once_an_epoch,
)
from orchestrator.training.objectives import Objective, Summed
from orchestrator.training.optim import learning_rate
from orchestrator.training.roles import Role


@dataclass
class ExamplesTraining(ABC):
    """A run on examples: the parts of it, and what the loop calls back. Every rank has one."""

    config: JobConfig
    inputs: Inputs
    run: Run
    latest: Metrics = field(default_factory=dict)
    """The last value of each metric."""
    position: int = 0
    """Examples trained on, counted over all epochs."""

    def __post_init__(self) -> None:
        """Make the model, open the examples, and go to where the run goes on.

        Raises ValueError if the checkpoint belongs to another model or to other examples.
        """
        config, run = self.config, self.run
        self.stage = config.section(ExamplesConfig)
        self.role = examples_role(config, self.inputs)
        self.examples: Split = self.inputs.open("train", run.cache)
        self.validation: Split = self.inputs.open("validation", run.cache)
        self.boundary = Boundary.of(self.inputs, run.cache)
        self.checkpoints = Checkpoints(run, config)
        if self.checkpoints.start is not None:
            start = self.checkpoints.start
            self.position = start_position(start, config, self.role.model, self.inputs)
        self.make(self.role)
        self.checkpoints.resumed()

    @abstractmethod
    def loss(self, trainer: Engine, batch: Batch) -> Summed:
        """The objective of a micro-batch."""

    @abstractmethod
    def measure(self) -> Metrics:
        """Measure the model on the validation split. Every rank calls it."""

    @cached_property
    def order(self) -> Order:
        """Which example comes when."""
        return Order(len(self.examples), self.config.seed, self.inputs.fingerprint)

    @property
    def schedule(self) -> Schedule:
        """When what is due."""
        stage, optim, batch = self.stage, self.role.optim, self.config.batch
        assert optim is not None  # the role is trained
        often = stage.evaluate_every
        return Schedule(
            stage.steps,
            once_an_epoch(len(self.examples), batch.step) if often is None else every(often),
            every(stage.checkpoint_every),
            lambda step: learning_rate(optim, step, stage.steps),
            stage.checkpoint_every_minutes,
            stage.keep_best,
        )

    def make(self, role: RoleConfig) -> None:
        """Make the model, as it is where the run goes on."""
        self.model: Role = self.checkpoints.build("model", role, self.config)

    def carry_out(self) -> Trained:
        """Train to the last step or until a stop; then the best model is back, if that is kept."""
        from_step = self.checkpoints.from_step
        self.run.event("training", device=device_name(self.run.device), from_step=from_step)
        with self.checkpoints:
            outcome = self.fit(from_step)
        if self.restore_best():
            self.measure()  # for what is shown of it; its metrics are on record
        return outcome

    def restore_best(self) -> bool:
        """Take back the weights of the best evaluation; whether they are others than these."""
        return self.checkpoints.restore_best(self.model)

    def fit(self, from_step: int) -> Trained:
        """The loop."""
        batch = self.config.batch
        ranks = distributed.rank(), distributed.world_size()
        return fit(
            self.model.engine,
            self.loss,
            steps(self.examples, self.order, self.position, batch.step, batch.micro, *ranks),
            self.schedule,
            start_step=from_step,
            spent=self.checkpoints.spent,
            flops_per_step=flops_per_sample(self.role.model) * batch.step,
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
        metrics["train/epochs"] = self.position / self.inputs.train
        self.record(step, metrics)

    def record(self, step: int, metrics: Metrics) -> None:
        """Record metrics."""
        self.latest |= metrics
        self.run.log(step, metrics)

    def evaluate(self, step: int) -> Metrics:
        """Measure, and record that. Every rank calls it."""
        metrics = self.measure()
        self.record(step, metrics)
        return metrics

    def over_validation(self, objective: Objective[Batch]) -> Totals:
        """The objective over the whole validation split. Every rank calls it."""
        ranks = distributed.rank(), distributed.world_size()
        shares = evaluation(self.validation, self.config.batch.micro, *ranks)
        return evaluate(self.model.engine, objective, shares, self.run.heart)

    def outputs(self, features: NDArray[np.float32]) -> torch.Tensor:
        """What the model gives (n, O) for scaled features (n, F). Every rank calls it."""
        with evaluating(self.model.engine):
            found: torch.Tensor = self.model.engine.forward(
                torch.from_numpy(features).to(self.run.device)
            )
        return found.float()

    @property
    def savable(self) -> Savable:
        """The model as checkpoints look at it."""
        return self.model

    def save(self, step: int) -> None:
        """Begin to publish the checkpoint of this step. Every rank calls it."""
        self.checkpoints.save(
            step,
            [self.savable],
            None,
            {FACTS: facts(self.config, self.inputs, self.position)},
            self.latest,
            data_cursor=self.position,
        )


def counted_part(trainer: Engine, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs (n, O) and what was to be told (n, ...) of the examples of a batch that count."""
    features, told, counted = (
        torch.from_numpy(array).to(trainer.device)
        for array in (batch.features, batch.labels, batch.counted)
    )
    return trainer.forward(features)[counted], told[counted]
