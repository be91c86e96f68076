"""What was measured: the loss of runs of several sizes on several amounts of data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
FLOPS_PER_WEIGHT = 6
"""Operations to train one parameter on one token: 2 forward, 4 backward (Kaplan et al. 2020)."""
COUNTS = {
    "total": "all parameters, tables of tokens included",
    "non_embedding": "parameters without tables of tokens and positions",
}
"""What N counts; constants of one are no constants of the other (Pearce and Song 2024)."""


@dataclass(frozen=True)
class Points:
    """Runs as arrays of one length (n,)."""

    parameters: Array
    """N of each run."""
    tokens: Array
    """D that each was trained on, repeated ones counted again."""
    loss: Array
    """Nats per token at the end of each."""
    measured_flops: Array | None = None
    """C of each run where somebody counted it. None: 6 N D."""
    budget: Array | None = None
    """FLOPs that each was meant to take: runs of one budget are compared."""
    unique_tokens: Array | None = None
    """Of `tokens`, those that are no repetitions. None: all."""
    names: tuple[str, ...] = ()
    """How each is called in messages."""
    count: str = "total"
    """What N counts, a key of COUNTS."""
    data: tuple[str, ...] = ()
    """Fingerprints of what all have read alike. Empty: a table does not tell."""

    @property
    def flops(self) -> Array:
        """C of each run, as counted or as 6 N D."""
        return self.six_nd if self.measured_flops is None else self.measured_flops

    @property
    def six_nd(self) -> Array:
        """6 N D of each run."""
        return FLOPS_PER_WEIGHT * self.parameters * self.tokens

    @cached_property
    def flops_factor(self) -> float:
        """C / (6 N D), the median over runs."""
        return float(np.median(self.flops / self.six_nd))

    @property
    def per_six_nd(self) -> str:
        """The FLOP convention in words."""
        if self.measured_flops is None:
            return "C = 6 N D"
        return f"C as counted, {self.flops_factor:.3g} x 6 N D in the median"

    @property
    def count_in_words(self) -> str:
        """The convention of parameters in words."""
        return COUNTS[self.count]

    def __len__(self) -> int:
        """How many there are."""
        return len(self.loss)

    def take(self, chosen: Sequence[int] | NDArray[np.bool_]) -> "Points":
        """Some of the runs."""
        names = tuple(np.asarray(self.names, dtype=object)[chosen]) if self.names else ()
        return replace(
            self,
            parameters=self.parameters[chosen],
            tokens=self.tokens[chosen],
            loss=self.loss[chosen],
            measured_flops=None if self.measured_flops is None else self.measured_flops[chosen],
            budget=None if self.budget is None else self.budget[chosen],
            unique_tokens=None if self.unique_tokens is None else self.unique_tokens[chosen],
            names=names,
        )

    def name(self, number: int) -> str:
        """How a run is called in messages."""
        return self.names[number] if self.names else f"point {number + 1}"


def check_flops(points: Points, within: float) -> None:
    """Raise ValueError where counted FLOPs and 6 N D differ by more than a factor.

    They do so a little by attention and by the output head, and much where a column has another
    unit, or N counts other parameters than the FLOPs do.
    """
    if points.measured_flops is None:
        return
    ratio = points.measured_flops / points.six_nd
    worst = int(np.argmax(np.abs(np.log(ratio))))
    if not 1 / within <= ratio[worst] <= within:
        raise ValueError(
            f"{points.name(worst)}: flops={points.measured_flops[worst]:.4g} is "
            f"{ratio[worst]:.3g} x 6 x parameters x tokens = {points.six_nd[worst]:.4g}; it must "
            f"be within a factor of {within:g}. Correct the column that is wrong, leave flops out, "
            f"or, if it is meant, type --flops-within {2 * max(ratio[worst], 1 / ratio[worst]):.2g}"
        )
