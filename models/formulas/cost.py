"""What the formulas of a family work out."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What one model costs. Exact: it equals what is counted on the built module."""

    parameters: int
    """Trained numbers; shared ones count once."""
    largest_layer: int
    """The most trained numbers that a single module holds itself, without the modules in it."""
    flops_per_sample: Callable[[int], int]
    """Floating-point operations of matrix products to train on one sample that is so many tokens
    long, forward and backward; an example without tokens has the length 1."""
