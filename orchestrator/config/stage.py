"""What every stage has in the config, and what every stage that trains has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from data.addresses import is_url
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, check_choice, nearest_multiples

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig
    from orchestrator.config.resources import ResourcesConfig


@dataclass(frozen=True)
class BatchSizes:
    """How an optimizer step is cut, in samples (sequences, examples)."""

    step: int
    """Samples of an optimizer step, over all ranks: the global batch."""
    micro: int
    """Samples in one forward pass on one rank."""
    accumulation_steps: int
    """Micro-batches per optimizer step on one rank."""


@dataclass
class StageConfig:
    """The section of a stage; the name is that in the table of stages."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Sections and settings of the job that the stage reads, besides those of every job."""
    roles: ClassVar[tuple[str, ...]] = ()
    """Names of its models; the first is the one that `model`, `engine` and `optim` describe."""
    frozen: ClassVar[tuple[str, ...]] = ()
    """Roles that are not trained."""
    optional: ClassVar[tuple[str, ...]] = ()
    """Roles that a job has only where `roles.NAME` says something of them."""
    changes: ClassVar[Mapping[str, Change]] = {"name": Change.FIXED}
    """Of a stage that can go on from a checkpoint: the kind of each of its settings."""

    name: str = ""
    """Which stage it is; stage=NAME chooses one, with its settings."""

    @property
    def processes(self) -> int:
        """Processes beside the workers, with the resources of one each, which workers start."""
        return 0

    def check_job(self, job: JobConfig) -> None:
        """Raise ValueError for what does not fit the other sections of the job."""

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Settings of the job that change nothing in this stage, by their full names, and why."""
        return {}

    def batch(self, workers: int) -> BatchSizes:
        """How a step is cut for so many workers."""
        raise NotImplementedError(f"stage={self.name} has no batches")

    def allows(self, workers: int) -> bool:
        """Whether the work can be cut for so many workers."""
        return True

    def cut_for(self, workers: int, most: int) -> StageConfig:
        """The stage for so many workers, with at most so many samples in a forward pass."""
        return self


@dataclass
class TrainingConfig(StageConfig):
    """What every stage has that trains in optimizer steps."""

    reads: ClassVar[tuple[str, ...]] = (
        *("model", "optim", "engine", "resume", "allow_changes", "roles"),
    )
    roles: ClassVar[tuple[str, ...]] = ("model",)
    changes: ClassVar[Mapping[str, Change]] = {
        **StageConfig.changes,
        "steps": Change.FREE,
        "global_batch_size": Change.ACCOUNTED,
        "micro_batch_size": Change.FREE,
        "evaluate_every": Change.FREE,
        "checkpoint_every": Change.FREE,
        "checkpoint_every_minutes": Change.FREE,
        "checkpoints_kept": Change.FREE,
        "keep_every": Change.FREE,
        **dict.fromkeys(("save_async", "checkpoints_to"), Change.FREE),
        **dict.fromkeys(("keep_best", "patience", "min_delta", "best_metric"), Change.FREE),
    }
    measures: ClassVar[Mapping[str, str]] = {"validation/loss": "lower"}
    """What every evaluation reports: the metric, and whether lower or higher is better."""

    steps: int = 100
    """Optimizer steps of the whole run."""
    global_batch_size: int = 12
    """Samples per optimizer step, over all ranks."""
    micro_batch_size: int | None = None
    """Samples in one forward pass on one rank. None: a rank's whole share of a step."""
    evaluate_every: int | None = 100
    """Steps between evaluations on the validation split; also after the last step. None: once an
    epoch where the stage counts in epochs, else after the last step alone."""
    checkpoint_every: int | None = 100
    """Steps between checkpoints; also after the last step, and when interrupted. None: no such
    rhythm."""
    checkpoint_every_minutes: float | None = None
    """Minutes of a run without a checkpoint after which the step at hand ends with one. None: steps
    alone decide."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay on the disk."""
    keep_every: int | None = None
    """Checkpoints at multiples of so many steps stay on the disk for ever, beside the newest ones.
    None: none does."""
    save_async: bool = True
    """true: a checkpoint is written while training goes on, for which each worker keeps a copy of
    what it saves in host memory. false: training stands still meanwhile."""
    checkpoints_to: str | None = None
    """URL, such as s3://bucket/prefix or file:///mnt/shared, below which checkpoints and the record
    are copied while training goes on; the same ones stay there as in the run folder. None: nowhere.
    """
    keep_best: bool = False
    """true: the best evaluation by best_metric is saved, and its checkpoint stays on the disk
    beside the newest ones."""
    patience: int | None = None
    """Evaluations in a row without progress in best_metric after which training ends early. None:
    it goes on to the last step."""
    min_delta: float = 0.0
    """patience: how much better than the last progress a value must be to count as progress."""
    best_metric: str | None = None
    """What keep_best and patience go by, a metric that evaluations report. None:
    validation/loss."""

    def __post_init__(self) -> None:
        """Check ranges, and that no setting is for another that is not set."""
        for name in ("steps", "global_batch_size", "checkpoints_kept"):
            check_at_least(f"stage.{name}", getattr(self, name), 1)
        for name in ("micro_batch_size", "evaluate_every", "checkpoint_every", "patience"):
            if getattr(self, name) is not None:
                check_at_least(f"stage.{name}", getattr(self, name), 1)
        minutes = self.checkpoint_every_minutes
        if minutes is not None and not 0 < minutes < math.inf:
            raise ValueError(
                f"stage.checkpoint_every_minutes={minutes} must be greater than 0; try "
                "stage.checkpoint_every_minutes=10, or null"
            )
        if self.checkpoints_to is not None and not is_url(self.checkpoints_to):
            raise ValueError(
                f"stage.checkpoints_to={self.checkpoints_to} must be a URL; try "
                f"stage.checkpoints_to=file://{Path(self.checkpoints_to).absolute()}"
            )
        self._check_keep_every()
        self._check_selection()

    def _check_keep_every(self) -> None:
        keep, every = self.keep_every, self.checkpoint_every
        if keep is None:
            return
        check_at_least("stage.keep_every", keep, 1)
        if every is None:
            raise ValueError(
                f"stage.keep_every={keep} keeps checkpoints of stage.checkpoint_every, which is "
                f"not set; try stage.checkpoint_every={keep}"
            )
        if keep % every:
            raise ValueError(
                f"stage.keep_every={keep} must be a multiple of stage.checkpoint_every={every}; "
                f"nearest: {nearest_multiples(keep, every)}"
            )

    def _check_selection(self) -> None:
        if not 0 <= self.min_delta < math.inf:
            raise ValueError(f"stage.min_delta={self.min_delta} must be at least 0 and finite")
        if self.min_delta and self.patience is None:
            raise ValueError(
                f"stage.min_delta={self.min_delta} is for stage.patience, which is not set; add "
                "stage.patience=3, or leave stage.min_delta out"
            )
        if self.best_metric is not None and not self.selects:
            raise ValueError(
                f"stage.best_metric={self.best_metric} is for stage.keep_best and stage.patience, "
                "which are not set; add stage.keep_best=true or stage.patience=3"
            )
        if self.patience is None or self.evaluate_every is None:
            return
        evaluations = (self.steps - 1) // self.evaluate_every  # before the last step
        if self.patience >= evaluations:  # the first is always progress
            often = (self.steps - 1) // (self.patience + 1)
            remedy = f"stage.evaluate_every={often}" if often else "more stage.steps"
            raise ValueError(
                f"stage.patience={self.patience} can't end a run early that is evaluated "
                f"{evaluations} times before its last step, stage.steps={self.steps}, "
                f"stage.evaluate_every={self.evaluate_every}; try {remedy}"
            )

    @property
    def selects(self) -> bool:
        """Whether steps are compared by `compared_by`."""
        return self.keep_best or self.patience is not None

    @property
    def saves(self) -> int | None:
        """Checkpoints of the whole run. None: minutes or evaluations decide, too."""
        if self.keep_best or self.checkpoint_every_minutes is not None:
            return None
        return 1 if self.checkpoint_every is None else -(-self.steps // self.checkpoint_every)

    @property
    def updates(self) -> int:
        """Optimizer steps of a step."""
        return 1

    @property
    def rows_of_text(self) -> int:
        """Sequences of the section `data` in an optimizer step, over all ranks."""
        return self.global_batch_size

    @property
    def compared_by(self) -> str:
        """The metric that tells which step is better."""
        return self.best_metric or "validation/loss"

    def measures_of(self, job: JobConfig) -> Mapping[str, str]:
        """As `measures`, with what only the other sections tell."""
        return self.measures

    def check_job(self, job: JobConfig) -> None:
        """Check the metric, the cut of the batch, and that the warm-up ends in time."""
        self._check_batch(job.resources)
        check_choice("stage.best_metric", self.compared_by, self.measures_of(job))
        for name in self.roles:
            optim = job.role(name).optim
            if optim is not None and optim.warmup_steps >= self.steps:
                own = name in job.roles and "warmup_steps" in job.roles[name].optim
                setting = f"{f'roles.{name}.' if own else ''}optim.warmup_steps"
                raise ValueError(
                    f"{setting}={optim.warmup_steps} must be less than "
                    f"stage.steps={self.steps}; try {setting}={self.steps // 10}"
                )

    def batch(self, workers: int) -> BatchSizes:
        """How a step is cut for so many workers."""
        micro = self.micro_batch_size or self.global_batch_size // workers
        return BatchSizes(self.global_batch_size, micro, self.global_batch_size // micro // workers)

    def allows(self, workers: int) -> bool:
        """Whether all workers can have the same share of a step."""
        return self.global_batch_size % ((self.micro_batch_size or 1) * workers) == 0

    def cut_for(self, workers: int, most: int) -> TrainingConfig:
        """The stage with micro-batches that divide a worker's share and are no larger than that."""
        share = self.global_batch_size // workers
        micro = next(size for size in range(min(most, share), 0, -1) if share % size == 0)
        return replace(self, micro_batch_size=micro)

    def _check_batch(self, resources: ResourcesConfig) -> None:
        batch, micro, workers = self.global_batch_size, self.micro_batch_size, resources.most
        unit = (micro or 1) * workers
        if any(self.allows(size) for size in range(resources.least, workers + 1)):
            return
        product = f"resources.workers={workers}"
        if resources.least < workers:
            product = f"a number in resources.workers={resources.text}"
        if micro is not None:
            product = f"stage.micro_batch_size x resources.workers = {micro} x {workers} = {unit}"
        fitting = [n for n in range(1, workers) if self.allows(n)]
        fewer = f"; or try resources.workers={fitting[-1]}" if fitting else ""
        raise ValueError(
            f"stage.global_batch_size={batch} must be a multiple of {product}; "
            f"nearest: {nearest_multiples(batch, unit)}{fewer}"
        )
