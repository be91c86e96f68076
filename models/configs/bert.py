"""A Transformer encoder for masked tokens, as its sizes and choices."""

from dataclasses import dataclass
from typing import ClassVar

from models.configs.blocks import BlocksConfig
from models.configs.checks import check_positive


@dataclass
class BertConfig(BlocksConfig):
    """Tells masked tokens from all others around them (Devlin et al. 2019); without segments.

    Raises:
        ValueError: from the constructor, for a value or a combination that cannot work.
    """

    trained_by: ClassVar[str | None] = "stage=masked"
    initial: ClassVar[tuple[str, ...]] = ("init_std",)

    family: str = "bert"
    activation: str = "gelu"
    norm_eps: float = 1e-12
    init_std: float = 0.02
    """Std of the initial weights."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_positive("init_std", self.init_std)

    def weight_std(self, inputs: int, outputs: int) -> float:
        """The same for all."""
        return self.init_std
