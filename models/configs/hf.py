"""A model of the package transformers, as its own config describes it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from models.configs.base import LanguageModelConfig
from models.configs.checks import check_choice

TASKS = ("causal", "masked", "seq2seq")


@dataclass
class HFConfig(LanguageModelConfig):
    """A module of transformers behind our interface, for architectures that are not ours.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    shapeless: ClassVar[tuple[str, ...]] = ("task", "model_type", "settings")

    family: str = "hf"
    task: str = "causal"
    """What its head predicts: causal (the next token), masked (hidden tokens, as BERT) or seq2seq
    (an answer to a text, as T5)."""
    model_type: str = ""
    """Name of the architecture in transformers, such as bloom."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Its config.json."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_choice("task", self.task, TASKS)

    @property
    def writes(self) -> bool:
        """Whether it predicts the next token of a text, and so can write one."""
        return self.task == "causal"

    @property
    def translates(self) -> bool:
        """Whether it answers a source text with a target text."""
        return self.task == "seq2seq"

    @property
    def target_start(self) -> int | None:
        """As its config.json says."""
        start = self.settings.get("decoder_start_token_id")
        return start if isinstance(start, int) else None
