"""Pretraining as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from models.configs import language
from orchestrator.config.changes import Change
from orchestrator.config.checks import check_at_least
from orchestrator.stages.language.stage import LanguageTrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class PretrainConfig(LanguageTrainingConfig):
    """Next-token training of a model, from random weights or from those of `model.weights`."""

    changes: ClassVar[Mapping[str, Change]] = {
        **LanguageTrainingConfig.changes,
        "sample_tokens": Change.FREE,
        "sample_at_evaluations": Change.FREE,
        "replay": Change.FREE,
    }
    measures: ClassVar[Mapping[str, str]] = {
        **LanguageTrainingConfig.measures,
        "validation/perplexity": "lower",
        "validation/bits_per_byte": "lower",
    }

    name: str = "pretrain"
    prompts: list[str] = field(default_factory=lambda: ["The", "Return the", "If the"])
    """Texts that the final weights continue, as a look at what was learned."""
    sample_tokens: int = 80
    """Tokens written after each prompt; 0 for none."""
    sample_at_evaluations: bool = False
    """true: the weights of every evaluation continue the prompts, too; samples/ in the run folder
    and in MLflow."""
    replay: int | None = None
    """This step alone is looked at, in this process and without changing anything: loss, gradient
    norm of each tensor, the first module whose output is not finite. None: an ordinary run."""

    def __post_init__(self) -> None:
        """Check counts, and that there is what samples wait for."""
        super().__post_init__()
        check_at_least("stage.sample_tokens", self.sample_tokens, 0)
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
        """Check that the model tells the next token, and that a replay is in one process."""
        model = language(job.role("model").model)
        if not model.writes:
            raise ValueError(
                f"model.family={model.family} does not predict the next token, which "
                f"stage={self.name} is about; try model=gpt_tiny"
            )
        super().check_job(job)
        resources = job.resources
        if self.replay is not None and (resources.launcher != "inline" or resources.workers > 1):
            raise ValueError(
                f"stage.replay={self.replay} looks at a step in one process, and the job has "
                f"resources.workers={resources.workers} with resources.launcher="
                f"{resources.launcher}; add resources=inline"
            )
