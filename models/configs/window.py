"""A fully connected network over a window of tokens, as its sizes."""

from dataclasses import dataclass
from typing import ClassVar

from models.configs.base import CausalConfig
from models.configs.checks import (
    MOST,
    check_positive,
    check_probability,
    check_size,
)


@dataclass
class WindowConfig(CausalConfig):
    """A language model of the last few tokens, side by side (Bengio et al. 2003).

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    initial: ClassVar[tuple[str, ...]] = ("init_std",)

    family: str = "window"
    max_positions: int = MOST
    """Longest sequence, in tokens; as good as none, for nothing belongs to a position."""
    window: int = 8
    """Tokens that the next one is told from."""
    width: int = 192
    """Numbers per token."""
    hidden: int = 1024
    """tanh units over the tokens of a window."""
    dropout: float = 0.0
    """Probability, on token vectors and on the hidden units."""
    init_std: float = 0.05
    """Std of the initial token vectors; weights of layers get 1 / sqrt(their inputs)."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        for name in ("window", "width", "hidden"):
            check_size(name, getattr(self, name))
        check_probability("dropout", self.dropout)
        check_positive("init_std", self.init_std)

    @property
    def window_inputs(self) -> int:
        """Numbers of a window."""
        return self.window * self.width
