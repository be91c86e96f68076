"""What models of whole-sequence blocks share: the encoder-decoder and the masked model."""

from dataclasses import dataclass
from typing import ClassVar

from models.configs.base import LanguageModelConfig
from models.configs.checks import (
    MOST_LAYERS,
    check_choice,
    check_positive,
    check_probability,
    check_size,
)

ORDERS = ("post", "pre")
BLOCK_ACTIVATIONS = ("relu", "gelu")


@dataclass
class BlocksConfig(LanguageModelConfig):
    """Blocks of attention over a whole sequence and of feed-forward.

    Raises:
        ValueError: from the constructor, for a value or a combination that cannot work.
    """

    shapeless: ClassVar[tuple[str, ...]] = ("heads", "norm_order", "activation", "norm_eps")

    layers: int = 2
    """Blocks of attention and feed-forward; of encoder and decoder each."""
    width: int = 128
    """Numbers per token between the blocks."""
    heads: int = 4
    """Heads of each attention; each is width / heads wide."""
    ffn_width: int | None = None
    """Hidden units per feed-forward. None: 4 x width."""
    norm_order: str = "post"
    """post: each sum of a block is normed, as published (Vaswani et al. 2017); pre: what goes into
    attention and feed-forward is (Xiong et al. 2020)."""
    activation: str = "relu"
    """Of hidden units: relu or gelu."""
    dropout: float = 0.1
    """Probability, on embeddings, attention weights and what blocks add."""
    norm_eps: float = 1e-5
    """Added to the variance in layer norms."""

    def __post_init__(self) -> None:
        """Check every value, then that heads share the width evenly."""
        super().__post_init__()
        check_choice("norm_order", self.norm_order, ORDERS)
        check_choice("activation", self.activation, BLOCK_ACTIVATIONS)
        check_size("layers", self.layers, MOST_LAYERS)
        for name in ("width", "heads"):
            check_size(name, getattr(self, name))
        if self.ffn_width is not None:
            check_size("ffn_width", self.ffn_width)
        check_probability("dropout", self.dropout)
        check_positive("norm_eps", self.norm_eps)
        if self.width % self.heads:
            below = self.width // self.heads * self.heads
            nearest = ", ".join(str(w) for w in (below, below + self.heads) if w > 0)
            raise ValueError(
                f"model.width={self.width} must be a multiple of model.heads={self.heads}; "
                f"nearest: {nearest}"
            )

    @property
    def writes(self) -> bool:
        """Whether it predicts the next token of a text alone: never."""
        return False

    @property
    def head_width(self) -> int:
        """Numbers per head."""
        return self.width // self.heads

    @property
    def feed_forward_width(self) -> int:
        """`ffn_width`, or 4 x width where it is None."""
        return 4 * self.width if self.ffn_width is None else self.ffn_width

    def weight_std(self, inputs: int, outputs: int) -> float:
        """Std of the initial weights of a projection."""
        raise NotImplementedError
