"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from orchestrator.config.checks import check_at_least, check_choice
from orchestrator.config.stage import BatchSizes, StageConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig

SPLITS = ("validation", "train")
OF_TRAINING = (
    *("seed", "phases", "max_repetition", "row_tokens", "packing", "on_bad_block", "drift"),
)
"""Settings of the data that matter to training alone."""


@dataclass
class EvaluateConfig(StageConfig):
    """How well the model of a checkpoint predicts text; nothing is trained."""

    reads: ClassVar[tuple[str, ...]] = ("checkpoint", "data", "engine", "roles")
    roles: ClassVar[tuple[str, ...]] = ("model",)
    frozen: ClassVar[tuple[str, ...]] = ("model",)

    name: str = "evaluate"
    split: str = "validation"
    """validation or train: which documents of the data are predicted."""
    batch_size: int = 8
    """Sequences in one forward pass on one rank."""
    role: str | None = None
    """Which model of a checkpoint that holds several. None: the only one."""
    resamples: int = 1000
    """Samples of documents, drawn with replacement, that the intervals come from."""
    confidence: float = 0.95
    """Share of such samples that an interval holds."""

    def __post_init__(self) -> None:
        """Check ranges."""
        check_choice("stage.split", self.split, SPLITS)
        check_at_least("stage.batch_size", self.batch_size, 1)
        check_at_least("stage.resamples", self.resamples, 100)
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"stage.confidence={self.confidence} must lie in [0.5, 1); try 0.95")

    def check_job(self, job: JobConfig) -> None:
        """Check that there is something to evaluate."""
        if job.checkpoint is None:
            raise ValueError(
                "stage=evaluate needs checkpoint=RUN_FOLDER (or a checkpoint, or an exported "
                "folder); try checkpoint=outputs/latest"
            )

    def unread(self, job: JobConfig) -> dict[str, str]:
        """What orders, cuts, repeats or judges the rows of training."""
        why = "stage=evaluate reads each document of a split once, as it is"
        weights = {f"data.datasets.{name}.weight": why for name in job.data.datasets}
        return {f"data.{name}": why for name in OF_TRAINING} | weights

    def batch(self, workers: int) -> BatchSizes:
        """One micro-batch on each worker at a time."""
        return BatchSizes(self.batch_size * workers, self.batch_size, 1)
