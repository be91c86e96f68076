"""What every stage has in the config, and what every stage that trains has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, nearest_multiples

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


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
    changes: ClassVar[Mapping[str, Change]] = {"name": Change.FIXED}
    """Of a stage that can go on from a checkpoint: the kind of each of its settings."""

    name: str = ""

    def check_job(self, job: JobConfig) -> None:
        """Raise ValueError for what does not fit the other sections of the job."""

    def batch(self, workers: int) -> BatchSizes:
        """How a step is cut for so many workers."""
        raise NotImplementedError(f"stage={self.name} has no batches")


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
        "checkpoints_kept": Change.FREE,
    }

    steps: int = 100
    """Optimizer steps of the whole run."""
    global_batch_size: int = 12
    """Samples per optimizer step, over all ranks."""
    micro_batch_size: int | None = None
    """Samples in one forward pass on one rank. None: a rank's whole share of a step."""
    evaluate_every: int | None = 100
    """Steps between evaluations on the validation split; also after the last step. None: once an
    epoch where the stage counts in epochs, else after the last step alone."""
    checkpoint_every: int = 100
    """Steps between checkpoints; also after the last step, and when interrupted."""
    checkpoints_kept: int = 2
    """Newest checkpoints that stay on the disk."""

    def __post_init__(self) -> None:
        """Check that counts are positive."""
        for name in ("steps", "global_batch_size", "checkpoint_every"):
            check_at_least(f"stage.{name}", getattr(self, name), 1)
        check_at_least("stage.checkpoints_kept", self.checkpoints_kept, 1)
        for name in ("micro_batch_size", "evaluate_every"):
            if getattr(self, name) is not None:
                check_at_least(f"stage.{name}", getattr(self, name), 1)

    def check_job(self, job: JobConfig) -> None:
        """Check that the global batch divides into micro-batches, and the warm-up ends in time."""
        self._check_batch(job.resources.workers)
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

    def _check_batch(self, workers: int) -> None:
        batch, micro = self.global_batch_size, self.micro_batch_size
        unit = (micro or 1) * workers
        if batch % unit == 0:
            return
        product = f"resources.workers={workers}"
        if micro is not None:
            product = f"stage.micro_batch_size x resources.workers = {micro} x {workers} = {unit}"
        fitting = [n for n in range(1, workers) if batch % ((micro or 1) * n) == 0]
        fewer = f"; or try resources.workers={fitting[-1]}" if fitting else ""
        raise ValueError(
            f"stage.global_batch_size={batch} must be a multiple of {product}; "
            f"nearest: {nearest_multiples(batch, unit)}{fewer}"
        )
