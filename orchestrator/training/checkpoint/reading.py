"""Reading a role by ranges: a rank touches the bytes it asks for and no others."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import models
from models.gpt import GPT
from orchestrator.training.checkpoint.manifest import (
    Checkpoint,
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


def open_role(checkpoint: Checkpoint, role: str | None = None) -> StateReader:
    """The saved state of a role; None: the only one. Reads no tensor yet.

    Raises:
        CheckpointError: the checkpoint has no such role, or several to choose from.
    """
    name, record = checkpoint.role(role)
    if record.tensors is None:
        files = sorted(file for file in checkpoint.files if file.endswith(".safetensors"))
        return WholeTensors([checkpoint.path / file for file in files])
    return SlicedTensors(checkpoint.path, name, record.tensors)


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


def _room(shape: Sequence[int], start: int, stop: int) -> Tensor:
    """Room for elements [start, stop), which must be some that a tensor of this shape has."""
    if not 0 <= start <= stop <= math.prod(shape):
        raise IndexError(f"elements {start} to {stop} of a tensor with {math.prod(shape)}")
    return torch.empty(stop - start, dtype=torch.float32)


def read_whole(reader: StateReader, name: str) -> Tensor:
    """The weight of a parameter in its shape."""
    shape = reader.shape(name)
    return reader.read(name, WEIGHT, 0, math.prod(shape)).view(shape)


def check_fits(
    reader: StateReader, expected: Iterable[tuple[str, Sequence[int]]], source: Path | str
) -> None:
    """Compare saved weights with the parameters (name, shape) of the model that is to take them.

    Raises:
        CheckpointError: names the first tensor that differs, and `source`, where they come from.
    """
    saved = {name: tuple(reader.shape(name)) for name in reader.names()}
    for name, shape in expected:
        if name not in saved:
            raise CheckpointError(
                f"the weights in {source} are of another architecture: they have no {name}, "
                f"which the model has with shape {tuple(shape)}"
            )
        if saved.pop(name) != tuple(shape):
            raise CheckpointError(
                f"the weights in {source} are of another size: {name} has shape "
                f"{tuple(reader.shape(name))} there and {tuple(shape)} in the model"
            )
    for name, shape in saved.items():
        raise CheckpointError(
            f"the weights in {source} are of another architecture: the model has no {name}, "
            f"which they have with shape {shape}"
        )


def load_model(checkpoint: Checkpoint, role: str | None = None) -> nn.Module:
    """The model of a role with its weights, on the CPU, in fp32."""
    with torch.device("meta"):
        model = models.build(checkpoint.model_config(role))
    reader = open_role(checkpoint, role)
    check_fits(reader, ((n, p.shape) for n, p in model.named_parameters()), checkpoint.path)
    weights = {name: read_whole(reader, name) for name in reader.names()}
    model.load_state_dict(weights, assign=True)
    return model


def load_gpt(checkpoint: Checkpoint, role: str | None = None) -> GPT:
    """The model of a role that can write text. Raises CheckpointError for other families."""
    model = load_model(checkpoint, role)
    if not isinstance(model, GPT):
        raise CheckpointError(
            f"{checkpoint.path} holds a model of the family "
            f"{checkpoint.model_config(role).family}, which does not write text; give a "
            "checkpoint of the family gpt"
        )
    return model
