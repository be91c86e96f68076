"""A model of the package transformers, as its own config describes it."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from models.configs.base import LanguageModelConfig
from models.configs.checks import check_choice, check_positive, check_probability, check_size

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
    adapter: str | None = None
    """What is trained, beside weights that stay: lora (low-rank updates of linear layers, Hu et al.
    2021). None: all weights are trained."""
    adapter_rank: int = 8
    """Rank of each update."""
    adapter_alpha: float = 16.0
    """An update counts alpha / rank times."""
    adapter_dropout: float = 0.0
    """Probability, on what an update reads."""
    adapter_targets: list[str] = field(default_factory=list)
    """Which layers get one, by the last part of their names, such as query_key_value. []: all
    linear layers but the output."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_choice("task", self.task, TASKS)
        if self.adapter is not None:
            check_choice("adapter", self.adapter, ("lora",))
        check_size("adapter_rank", self.adapter_rank)
        check_positive("adapter_alpha", self.adapter_alpha)
        check_probability("adapter_dropout", self.adapter_dropout)

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        found = super().unread()
        if self.adapter is None:
            own = ("adapter_rank", "adapter_alpha", "adapter_dropout", "adapter_targets")
            found |= dict.fromkeys(own, "it is for model.adapter=lora")
        return found

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
