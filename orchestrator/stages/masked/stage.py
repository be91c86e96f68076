"""Pretraining on masked tokens as the job around it sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from models.configs import BertConfig
from orchestrator.config.changes import Change
from orchestrator.stages.language.stage import LanguageTrainingConfig

if TYPE_CHECKING:
    from orchestrator.config.job import JobConfig


@dataclass
class MaskedConfig(LanguageTrainingConfig):
    """Training of a masked model, from random weights or from those of `model.weights`."""

    changes: ClassVar[Mapping[str, Change]] = {
        **LanguageTrainingConfig.changes,
        **dict.fromkeys(("mask_fraction", "whole_words"), Change.MATHEMATICS),
    }
    measures: ClassVar[Mapping[str, str]] = {
        **LanguageTrainingConfig.measures,
        "validation/accuracy": "higher",
    }

    name: str = "masked"
    prompts: list[str] = field(
        default_factory=lambda: [
            "Return the <mask> of the list.",
            "If the <mask> is not found",
        ]
    )
    """Texts whose <mask> the final weights fill, as a look at what was learned."""
    mask_fraction: float = 0.15
    """Part of the tokens that is to be told. Of these 80% are masked, 10% are any token instead,
    and 10% stay as they are (Devlin et al. 2019, section 3.1)."""
    whole_words: bool = False
    """true: all tokens of a word are to be told, or none."""

    def __post_init__(self) -> None:
        """Check the part."""
        super().__post_init__()
        if not 0 < self.mask_fraction < 1:
            raise ValueError(
                f"stage.mask_fraction={self.mask_fraction} must lie between 0 and 1; try "
                "stage.mask_fraction=0.15"
            )

    def check_job(self, job: JobConfig) -> None:
        """Check that the model sees all tokens around one, too."""
        model = job.role("model").model
        if not isinstance(model, BertConfig):
            raise ValueError(
                f"model.family={model.family} does not tell masked tokens, and stage=masked needs "
                "a model that does; try model=bert_tiny"
            )
        if model.classes is not None:
            raise ValueError(
                f"model.classes={model.classes} are of stage=classify_text, and stage=masked tells "
                "masked tokens; add model.classes=null"
            )
        super().check_job(job)
        if job.tokenizer.kind == "bytes" or (
            job.tokenizer.kind == "bpe" and not job.tokenizer.mask
        ):
            raise ValueError(
                f"stage=masked needs a token for what is masked, and tokenizer.kind="
                f"{job.tokenizer.kind} has none; try tokenizer=bpe_mask"
            )
