"""The settings that stages share which train on a stream of text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from models.configs import reads_tokens
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_choice
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class LanguageTrainingConfig(TrainingConfig):
    """Training on sequences of the data service."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "data", "tokenizer")
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        **dict.fromkeys(("prompts", "on_bad_loss", "spike_sigmas"), Change.FREE),
    }

    steps: int = 420
    evaluate_every: int | None = 105
    checkpoint_every: int | None = 210
    prompts: list[str] = field(default_factory=list)
    """Texts that the final weights complete, as a look at what was learned."""
    on_bad_loss: str = "stop"
    """What a step leads to whose loss or gradient is not finite, or whose loss is a spike: stop; or
    skip: the run goes back to its last checkpoint and leaves that batch out, once until the next
    checkpoint. The batch is saved in bad_steps/ either way."""
    spike_sigmas: float | None = None
    """Robust standard deviations above the median loss of the last 64 steps from which on a loss is
    a spike. None: only what is not finite is bad."""

    def __post_init__(self) -> None:
        """Check ranges, and that there is what patience waits for."""
        super().__post_init__()
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError(
                f"stage.patience={self.patience} counts evaluations, and stage.evaluate_every=null "
                "has one alone, after the last step; try stage.evaluate_every="
                f"{self.steps // 10 or 1}"
            )
        check_choice("stage.on_bad_loss", self.on_bad_loss, ("stop", "skip"))
        if self.spike_sigmas is not None and not 0 < self.spike_sigmas < math.inf:
            raise ValueError(
                f"stage.spike_sigmas={self.spike_sigmas:g} must be greater than 0; try "
                "stage.spike_sigmas=10, or null"
            )

    def check_job(self, job: JobConfig) -> None:
        """Check that a sequence fits the model, too."""
        super().check_job(job)
        model = reads_tokens(job.role("model").model)
        T, longest = job.data.sequence_length, model.max_positions
        if longest < T:
            raise ValueError(
                f"data.sequence_length={T} is longer than model.max_positions={longest}; "
                f"try data.sequence_length={longest} or model.max_positions={T}"
            )
