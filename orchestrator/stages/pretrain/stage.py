"""Pretraining as the job around it sees it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from models.configs import language
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least, check_choice
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
        "sample_at_evaluations": Change.FREE,
        "on_bad_loss": Change.FREE,
        "spike_sigmas": Change.FREE,
        "replay": Change.FREE,
    }
    measures: ClassVar[Mapping[str, str]] = {
        **TrainingConfig.measures,
        "validation/perplexity": "lower",
        "validation/bits_per_byte": "lower",
    }

    name: str = "pretrain"
    steps: int = 420
    evaluate_every: int | None = 105
    checkpoint_every: int | None = 210
    prompts: list[str] = field(default_factory=lambda: ["The", "Return the", "If the"])
    """Texts that the final weights continue, as a look at what was learned."""
    sample_tokens: int = 80
    """Tokens written after each prompt; 0 for none."""
    sample_at_evaluations: bool = False
    """true: the weights of every evaluation continue the prompts, too; samples/ in the run folder
    and in MLflow."""
    on_bad_loss: str = "stop"
    """What a step leads to whose loss or gradient is not finite, or whose loss is a spike: stop; or
    skip: the run goes back to its last checkpoint and leaves that batch out, once until the next
    checkpoint. The batch is saved in bad_steps/ either way."""
    spike_sigmas: float | None = None
    """Robust standard deviations above the median loss of the last 64 steps from which on a loss is
    a spike. None: only what is not finite is bad."""
    replay: int | None = None
    """This step alone is looked at, in this process and without changing anything: loss, gradient
    norm of each tensor, the first module whose output is not finite. None: an ordinary run."""

    def __post_init__(self) -> None:
        """Check counts, and that there is what patience and samples wait for."""
        super().__post_init__()
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError(
                f"stage.patience={self.patience} counts evaluations, and stage.evaluate_every=null "
                "has one alone, after the last step; try stage.evaluate_every="
                f"{self.steps // 10 or 1}"
            )
        check_at_least("stage.sample_tokens", self.sample_tokens, 0)
        check_choice("stage.on_bad_loss", self.on_bad_loss, ("stop", "skip"))
        if self.spike_sigmas is not None and not 0 < self.spike_sigmas < math.inf:
            raise ValueError(
                f"stage.spike_sigmas={self.spike_sigmas:g} must be greater than 0; try "
                "stage.spike_sigmas=10, or null"
            )
        if self.replay is not None and not 1 <= self.replay <= self.steps:
            raise ValueError(
                f"stage.replay={self.replay} must be a step of the run, 1 to stage.steps="
                f"{self.steps}"
            )
        if self.sample_at_evaluations and not (self.sample_tokens and self.prompts):
            none = "stage.sample_tokens=0" if self.prompts else "stage.prompts=[]"
            raise ValueError(
                f"stage.sample_at_evaluations=true, but {none} leaves nothing to write; leave "
                "that out, or stage.sample_at_evaluations"
            )

    def measures_of(self, job: JobConfig) -> Mapping[str, str]:
        """Of each dataset of a mixture bits per byte, too."""
        names = job.data.datasets if len(job.data.datasets) > 1 else ()
        own = {f"validation/{name}/bits_per_byte": "lower" for name in names}
        return {**self.measures, **own}

    def unread(self, job: JobConfig) -> dict[str, str]:
        """Prompts, where nothing is written."""
        if self.sample_tokens:
            return {}
        return {"stage.prompts": "stage.sample_tokens=0 writes nothing after them"}

    def check_job(self, job: JobConfig) -> None:
        """Check that a sequence fits the model, too."""
        super().check_job(job)
        resources = job.resources
        if self.replay is not None and (resources.launcher != "inline" or resources.workers > 1):
            raise ValueError(
                f"stage.replay={self.replay} looks at a step in one process, and the job has "
                f"resources.workers={resources.workers} with resources.launcher="
                f"{resources.launcher}; add resources=inline"
            )
        model = language(job.role("model").model)
        T, longest = job.data.sequence_length, model.max_positions
        if longest < T:
            raise ValueError(
                f"data.sequence_length={T} is longer than model.max_positions={longest}; "
                f"try data.sequence_length={longest} or model.max_positions={T}"
            )
