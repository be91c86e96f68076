"""Pretraining on masked tokens in the process that starts the job: what it checks and shows."""

from typing import TYPE_CHECKING

from data import Tokenizer
from orchestrator.config import JobConfig
from orchestrator.stages.language.driving import LanguageDriver
from orchestrator.stages.language.filling import masked_row
from orchestrator.stages.masked.masking import masking
from orchestrator.stages.masked.stage import MaskedConfig
from orchestrator.stages.stage import Score, Shown

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

EVALUATION = (
    Shown("validation/accuracy", "masked tokens told {:.1%}"),
    Shown("validation/loss", "validation loss {:.3f}"),
)


def check(config: JobConfig, tokenizer: Tokenizer, start: "Checkpoint | None") -> None:
    """Raise ValueError for a tokenizer without a mask, or a prompt that can't be filled."""
    masking(config, tokenizer)
    for prompt in config.section(MaskedConfig).prompts:
        length, T = len(masked_row(tokenizer, prompt)), config.data.sequence_length
        if length > T:
            raise ValueError(
                f"stage.prompts: {prompt[:20]!r}... is {length} tokens, and must be at most "
                f"data.sequence_length={T}; shorten it"
            )


_DRIVER = LanguageDriver(EVALUATION, Score("validation/accuracy", lower_is_better=False), check)
outline, estimate, prepare = _DRIVER.outline, _DRIVER.estimate, _DRIVER.prepare
