"""Reading a role by ranges: a rank touches the bytes it asks for and no others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.record.checkpoints.manifest import (
    CheckpointError,
    SavedTensor,
    entry_of,
    file_of,
)
from orchestrator.training.checkpoint.tensorfile import (
    StoredTensor,
    TensorFileError,
    read_elements,
    read_header,
)
from orchestrator.training.state import WEIGHT, StateReader


class SlicedTensors:
    """A `StateReader` of one role: slices in the files of the ranks that wrote them."""

    def __init__(self, path: Path, role: str, tensors: dict[str, SavedTensor]) -> None:
        """Of the checkpoint in the folder `path`."""
        self._path = path
        self._role = role
        self._tensors = tensors
        self._headers: dict[Path, dict[str, StoredTensor]] = {}

    def names(self) -> Iterator[str]:
        """Names of the parameters."""
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self._tensors[name].shape

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter."""
        return frozenset((WEIGHT, *self._tensors[name].keys))

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, fp32, on the CPU."""
        if key not in self.keys(name):
            raise KeyError(f"{name}: {key}")
        out = _room(self.shape(name), start, stop)
        for first, last, rank in self._tensors[name].slices:
            low, high = max(start, first), min(stop, last)
            if low < high:
                file = self._path / file_of(self._role, key, rank)
                stored = self._header(file)[entry_of(name, key, first, last)]
                read_elements(file, stored, low - first, out[low - start : high - start])
        return out

    def _header(self, file: Path) -> dict[str, StoredTensor]:
        if file not in self._headers:
            self._headers[file] = read_header(file)
        return self._headers[file]


class WholeTensors:
    """A `StateReader` of files of whole tensors: `NAME`, and `NAME.KEY` in optimizer files."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Read the headers. Raises CheckpointError if a file is not of this kind."""
        self._places: dict[str, dict[str, tuple[Path, StoredTensor]]] = {}
        try:
            for file in files:
                for entry, stored in read_header(file).items():
                    name, key = entry, WEIGHT
                    if file.name.startswith("optimizer"):
                        name, _, key = entry.rpartition(".")
                    self._places.setdefault(name, {})[key] = (file, stored)
        except TensorFileError as error:
            raise CheckpointError(str(error)) from None

    def names(self) -> Iterator[str]:
        """Names of the parameters."""
        return iter(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self._places[name][WEIGHT][1].shape

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter."""
        return frozenset(self._places[name])

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, fp32, on the CPU."""
        file, stored = self._places[name][key]
        out = _room(stored.shape, start, stop)
        read_elements(file, stored, start, out)
        return out


class InMemory:
    """A `StateReader` of tensors by name, without anything of an optimizer."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """Of the weights of a model."""
        self._tensors = tensors

    def names(self) -> Iterator[str]:
        """Names of the parameters."""
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return tuple(self._tensors[name].shape)

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter: itself alone."""
        return frozenset((WEIGHT,))

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor."""
        return self._tensors[name].flatten()[start:stop]


def _room(shape: Sequence[int], start: int, stop: int) -> Tensor:
    """Room for elements [start, stop), which must be some that a tensor of this shape has."""
    if not 0 <= start <= stop <= math.prod(shape):
        raise IndexError(f"elements {start} to {stop} of a tensor with {math.prod(shape)}")
    return torch.empty(stop - start, dtype=torch.float32)


def read_whole(reader: StateReader, name: str) -> Tensor:
    """The weight of a parameter in its shape."""
    shape = reader.shape(name)
    return reader.read(name, WEIGHT, 0, math.prod(shape)).view(shape)
