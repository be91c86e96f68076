"""Recurrent networks as language models, as their sizes and choices."""

from dataclasses import dataclass
from typing import ClassVar

from models.configs.base import CausalConfig
from models.configs.checks import (
    MOST,
    MOST_LAYERS,
    check_positive,
    check_probability,
    check_size,
)


@dataclass
class RecurrentConfig(CausalConfig):
    """What recurrent networks of each kind have.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    initial: ClassVar[tuple[str, ...]] = ("init_std",)

    max_positions: int = MOST
    """Longest sequence, in tokens; as good as none, for nothing belongs to a position."""
    layers: int = 2
    """Recurrent layers, each over what the one below has put out."""
    width: int = 256
    """Units per layer, and numbers per token."""
    dropout: float = 0.0
    """Probability, on what goes into each layer and out of the last; not from step to step
    (Zaremba et al. 2014)."""
    init_std: float = 0.2
    """Std of the initial token vectors; weights of layers get 1 / sqrt(width). With a smaller one
    gates begin all alike, and the loss stays longer at that of single tokens."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_size("layers", self.layers, MOST_LAYERS)
        check_size("width", self.width)
        check_probability("dropout", self.dropout)
        check_positive("init_std", self.init_std)


@dataclass
class RNNConfig(RecurrentConfig):
    """A recurrent network of tanh units (Elman 1990, Mikolov et al. 2010).

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    family: str = "rnn"


@dataclass
class LSTMConfig(RecurrentConfig):
    """A recurrent network of cells with gates (Hochreiter and Schmidhuber 1997).

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    family: str = "lstm"
