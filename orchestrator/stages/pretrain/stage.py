"""Pretraining as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from models.configs import language
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least
from orchestrator.config.stage import TrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class PretrainConfig(TrainingConfig):
    """Next-token training of a model, from random weights or from those of `model.weights`."""

    reads: ClassVar[tuple[str, ...]] = (*TrainingConfig.reads, "data", "tokenizer")
    changes: ClassVar[Mapping[str, Change]] = {
        **TrainingConfig.changes,
        "prompts": Change.FREE,
        "sample_tokens": Change.FREE,
    }

    name: str = "pretrain"
    steps: int = 420
    evaluate_every: int | None = 105
    checkpoint_every: int = 210
    prompts: list[str] = field(default_factory=lambda: ["The", "Return the", "If the"])
    """Texts that the final weights continue, as a look at what was learned."""
    sample_tokens: int = 80
    """Tokens written after each prompt; 0 for none."""

    def __post_init__(self) -> None:
        """Check counts."""
        super().__post_init__()
        check_at_least("stage.sample_tokens", self.sample_tokens, 0)

    def check_job(self, job: JobConfig) -> None:
        """Check that a sequence fits the model, too."""
        super().check_job(job)
        model = language(job.role("model").model)
        T, longest = job.data.sequence_length, model.max_positions
        if longest < T:
            raise ValueError(
                f"data.sequence_length={T} is longer than model.max_positions={longest}; "
                f"try data.sequence_length={longest} or model.max_positions={T}"
            )
