"""The encoder-decoder Transformer, as its sizes and choices."""

from dataclasses import dataclass
from typing import ClassVar

from models.configs.blocks import BlocksConfig
from models.configs.checks import check_switch


@dataclass
class TransformerConfig(BlocksConfig):
    """Reads a source text as a whole and writes a target text (Vaswani et al. 2017).

    Raises:
        ValueError: from the constructor, for a value or a combination that cannot work.
    """

    trained_by: ClassVar[str | None] = "stage=translate"

    family: str = "transformer"
    shared_embedding: bool = True
    """Whether source, target and output layer have one table of tokens (section 3.4)."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_switch("shared_embedding", self.shared_embedding)
        if self.width % 2:
            raise ValueError(
                f"model.width={self.width} must be even: positions pair sines with cosines; "
                f"try model.width={self.width + 1}"
            )

    @property
    def translates(self) -> bool:
        """Always."""
        return True

    def weight_std(self, inputs: int, outputs: int) -> float:
        """Glorot and Bengio 2010: the variance is kept forward and backward."""
        return float((2 / (inputs + outputs)) ** 0.5)
