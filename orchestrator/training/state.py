"""The state of a model in training as it passes between engines and checkpoints: flat slices.

An engine holds, on each rank, stretches of the flattened parameters and of what the optimizer
keeps for each of their elements. A checkpoint stores such stretches and is read by ranges, so it
does not know which engine, ZeRO stage or world size wrote it, and no rank touches what it does
not hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from orchestrator.record.checkpoints.manifest import WEIGHT as WEIGHT


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
    (length,), on whatever device it was found; fp32 where it is to be saved."""

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


class DifferentState(ValueError):
    """Saved state that belongs to another model, or to another optimizer."""


def check_parameters(reader: StateReader, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise DifferentState, naming the first tensor, unless the reader holds just these."""
    saved = {name: reader.shape(name) for name in reader.names()}
    for name in [*shapes, *saved]:
        own, theirs = shapes.get(name), saved.get(name)
        if own != theirs:
            raise DifferentState(
                f"the saved weights are of another model: {name} is {_said(theirs)} there and "
                f"{_said(own)} in the model of this job; take the model settings that the weights "
                "were saved with, or other weights"
            )


def check_optimizer(
    reader: StateReader, keys: Mapping[str, frozenset[str]], optimizer: str
) -> None:
    """Raise DifferentState unless the reader holds what the optimizer keeps of each parameter.

    Args:
        reader: the saved state.
        keys: what the optimizer keeps, by the parameter's name.
        optimizer: its name in the config.
    """
    for name, own in keys.items():
        saved = reader.keys(name) - {WEIGHT}
        if saved != own:
            raise DifferentState(
                f"the saved optimizer state is of another optimizer: of {name} it holds "
                f"{', '.join(sorted(saved)) or 'nothing'}, while optim.name={optimizer} keeps "
                f"{', '.join(sorted(own)) or 'nothing'}; go on with the optimizer it was saved "
                "with, or start anew from the weights alone with model.weights="
            )


def fill(slices: Iterable[Slice], reader: StateReader) -> None:
    """Copy what the reader holds into the tensors of the slices, range by range."""
    with torch.no_grad():
        for own in slices:
            for key, tensor in own.tensors.items():
                tensor.copy_(reader.read(own.name, key, own.start, own.start + own.length))


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else f"of shape {shape}"
