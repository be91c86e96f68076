"""The state of a model in training as it passes between engines and checkpoints: flat slices.

An engine holds, on each rank, stretches of the flattened parameters and of what the optimizer
keeps for each of their elements. A checkpoint stores such stretches and is read by ranges, so it
does not know which engine, ZeRO stage or world size wrote it, and no rank touches what it does
not hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

WEIGHT = "weight"


@dataclass(frozen=True)
class Slice:
    """Consecutive elements of one flattened parameter, with their optimizer state."""

    name: str
    """Of the parameter, as in `named_parameters`."""
    shape: tuple[int, ...]
    """Of the whole parameter."""
    start: int
    """Place of the first element in the flattened parameter."""
    tensors: dict[str, Tensor]
    """WEIGHT, and what the optimizer keeps by its own names (exp_avg, momentum_buffer, ...); each
    (length,) and fp32, on whatever device it was found."""

    @property
    def length(self) -> int:
        """Number of elements."""
        return self.tensors[WEIGHT].numel()


class StateReader(Protocol):
    """The saved state of one role, read by ranges; safe to use on any rank by itself."""

    def names(self) -> Iterator[str]:
        """Names of the parameters."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter: WEIGHT, and the optimizer's names."""

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor: (stop - start,), fp32, on the CPU.

        Raises:
            KeyError: nothing of that name and key is stored.
        """
