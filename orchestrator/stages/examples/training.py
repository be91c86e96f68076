"""A run that trains on examples: its parts, and what the loop calls back."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic

from data.order import Order
from orchestrator.config import JobConfig, RoleConfig, TrainingConfig
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.stages.checkpoints import Checkpoints, Savable
from orchestrator.stages.examples.feeding import Batch, Split, steps
from orchestrator.stages.examples.resuming import FACTS, account
from orchestrator.stages.run import Run
from orchestrator.training import distributed
from orchestrator.training.hardware import device_name
from orchestrator.training.loop import Metrics, Schedule, Trained, every, fit, once_an_epoch
from orchestrator.training.objectives import Objective
from orchestrator.training.optim import learning_rate
from orchestrator.training.roles import Role


class ExampleTraining(Generic[Batch]):
    """What runs of all stages on examples have; a stage adds its examples and its evaluation."""

    tokenizer: Path | None = None
    """Of the model, for its checkpoints; None where it reads no text."""
    unit = "examples"
    """What the weights of micro-batches count."""

    def __init__(
        self,
        config: JobConfig,
        run: Run,
        role: RoleConfig,
        train: Split[Batch],
        fingerprint: str,
        about: Mapping[str, Any],
        flops_per_example: float,
    ) -> None:
        """Make the model, and go to where the run goes on.

        Args:
            config: of the job.
            run: as this rank sees it.
            role: the model, with everything filled in.
            train: examples to train on.
            fingerprint: of all examples of the job.
            about: what each checkpoint says of them besides.
            flops_per_example: floating-point operations, forward and backward.

        Raises:
            ValueError: the checkpoint belongs to another model or to other examples.
        """
        self.config, self.run, self.role, self.train = config, run, role, train
        self.stage = config.section(TrainingConfig)
        self.fingerprint, self.about = fingerprint, about
        self.flops_per_example = flops_per_example
        self.latest: Metrics = {}  # the last value of each metric
        self.position = 0  # examples trained on, counted over all epochs
        self.checkpoints = Checkpoints(run, config)
        if self.checkpoints.start is not None:
            self.position = self.position_of(self.checkpoints.start)
        self.make(role)
        self.checkpoints.resumed()

    def make(self, role: RoleConfig) -> None:
        """Make the model, as it is where the run goes on."""
        self.model: Role = self.checkpoints.build("model", role, self.config)

    @property
    def savable(self) -> Savable:
        """The model as checkpoints look at it."""
        return self.model

    def objective(self) -> Objective[Batch]:
        """What is minimised."""
        raise NotImplementedError

    def position_of(self, start: Checkpoint) -> int:
        """Where the run goes on. Raises ValueError if `start` is not of this model and data."""
        raise NotImplementedError

    def evaluate(self, step: int) -> Metrics:
        """Measure the validation split, and record what was found. Every rank calls it."""
        raise NotImplementedError

    @cached_property
    def order(self) -> Order:
        """Which example comes when."""
        return Order(len(self.train), self.config.seed, self.fingerprint)

    @property
    def schedule(self) -> Schedule:
        """When what is due."""
        stage, optim = self.stage, self.role.optim
        assert optim is not None  # the role is trained
        often = stage.evaluate_every
        epochs = once_an_epoch(len(self.train), self.config.batch.step)
        return Schedule(
            stage.steps,
            epochs if often is None else every(often),
            every(stage.checkpoint_every),
            lambda step: learning_rate(optim, step, stage.steps),
            stage.checkpoint_every_minutes,
            stage.keep_best,
        )

    def fit(self) -> Trained:
        """Train to the last step, or until a stop."""
        from_step = self.checkpoints.from_step
        self.run.event("training", device=device_name(self.run.device), from_step=from_step)
        with self.checkpoints:
            return self.loop(from_step)

    def batches(self) -> Iterator[list[Batch]]:
        """This rank's micro-batches of one optimizer step after another."""
        batch = self.config.batch
        ranks = distributed.rank(), distributed.world_size()
        return steps(self.train, self.order, self.position, batch.step, batch.micro, *ranks)

    def loop(self, from_step: int) -> Trained:
        """Take the steps after this one."""
        return fit(
            self.model.engine,
            self.objective(),
            self.batches(),
            self.schedule,
            start_step=from_step,
            spent=self.checkpoints.spent,
            flops_per_step=self.flops_per_example * self.config.batch.step,
            seed=self.config.seed,
            unit=self.unit,
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
        self.record(step, metrics | {"train/epochs": self.position / len(self.train)})

    def record(self, step: int, metrics: Metrics) -> None:
        """Record metrics, and keep the last value of each."""
        self.latest |= metrics
        self.run.log(step, metrics)

    def save(self, step: int) -> None:
        """Begin to publish the checkpoint of this step. Every rank calls it."""
        facts = account(self.config, self.fingerprint, self.position, self.about)
        self.checkpoints.save(
            step,
            [self.savable],
            self.tokenizer,
            {FACTS: facts},
            self.latest,
            data_cursor=self.position,
        )
