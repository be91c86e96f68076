"""What the formulas of a family work out."""

from collections.abc import Callable
from dataclasses import dataclass

from models.configs import CausalConfig, LanguageModelConfig, WordVectorsConfig


@dataclass(frozen=True)
class Cost:
    """What one model costs. Exact: it equals what is counted on the built module."""

    parameters: int
    """Numbers of the model; shared ones count once."""
    largest_layer: int
    """The most trained numbers that a single module holds itself, without the modules in it."""
    flops_per_sample: Callable[[int], int]
    """Floating-point operations of matrix products to train on one sample that is so many tokens
    long, forward and backward; an example without tokens has the length 1."""
    trained: int | None = None
    """Parameters that learn, of a model with an adapter. None: all."""


def vocabulary(config: LanguageModelConfig | WordVectorsConfig, vocab_size: int | None) -> int:
    """The tokenizer's vocabulary size, else the config's. Raises ValueError if none is known."""
    V = config.vocab_size if vocab_size is None else vocab_size
    if V is None:
        raise ValueError("model.vocab_size is not set; give it, or vocab_size, to count parameters")
    return V


def output_layer(config: CausalConfig, V: int, D: int) -> tuple[int, int]:
    """Trained numbers of the output layer that are not the token table's, and multiplied ones."""
    if config.value_head:
        return D + 1, D
    return 0 if config.tied_embedding else V * D, V * D
