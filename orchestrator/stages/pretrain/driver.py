"""Pretraining in the process that starts the job: what it checks and shows."""

from typing import TYPE_CHECKING

from data import Tokenizer
from models.configs import ModelConfig, language
from orchestrator.config import JobConfig
from orchestrator.stages.language.driving import TRAINING, LanguageDriver
from orchestrator.stages.pretrain.stage import PretrainConfig
from orchestrator.stages.stage import Score, Shown

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint

__all__ = ["EVALUATION", "TRAINING", "estimate", "outline", "prepare"]

EVALUATION = (
    Shown("validation/loss", "validation loss {:.3f}"),
    Shown("validation/bits_per_byte", "{:.3f} bits/byte"),
)


def check(config: JobConfig, tokenizer: Tokenizer, start: "Checkpoint | None") -> None:
    """Raise ValueError for prompts that leave no room, or a replay that the checkpoint is past."""
    check_prompts(config, tokenizer)
    if start is not None:
        check_replay(config.section(PretrainConfig).replay, start.step)


def check_replay(step: int | None, saved: int) -> None:
    """Raise ValueError if the step to replay is not after the checkpoint's."""
    if step is not None and step <= saved:
        raise ValueError(
            f"stage.replay={step} must be after the step of the checkpoint, {saved}; let resume= "
            "name an older checkpoint of the run, or leave it out to begin at step 0"
        )


def check_prompts(config: JobConfig, tokenizer: Tokenizer) -> None:
    """Raise ValueError for a prompt that leaves no room to write."""
    T, stage = config.data.sequence_length, config.section(PretrainConfig)
    for prompt in stage.prompts if stage.sample_tokens else ():
        length = 1 + len(tokenizer.encode(prompt))
        if length >= T:
            raise ValueError(
                f"stage.prompts: {prompt[:20]!r}... is {length} tokens with the end of text before "
                f"it, and must be shorter than data.sequence_length={T}; shorten it, or set "
                "stage.sample_tokens=0"
            )


def caution(model: ModelConfig) -> str:
    """What a reader of the loss must know of the model. Raises ValueError if it tells no token."""
    own = language(model)
    if not own.writes:
        raise ValueError(
            f"model.family={own.family} does not predict the next token, which stage=pretrain is "
            "about; try model=gpt_tiny"
        )
    if not own.sees_target:
        return ""
    return "; its mask sees the token it predicts, so a low loss means nothing"


_DRIVER = LanguageDriver(EVALUATION, Score("validation/bits_per_byte"), check, caution)
outline, estimate, prepare = _DRIVER.outline, _DRIVER.estimate, _DRIVER.prepare
