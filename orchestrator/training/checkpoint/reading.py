"""Reading a role by ranges: a rank touches the bytes it asks for and no others."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.configs import LanguageModelConfig, ModelConfig
from models.decoding import TextModel
from orchestrator.record.checkpoints.manifest import (
    Checkpoint,
    CheckpointError,
    SavedTensor,
    entry_of,
    file_of,
)
from orchestrator.training.checkpoint.merging import merged
from orchestrator.training.checkpoint.tensorfile import (
    StoredTensor,
    TensorFileError,
    read_elements,
    read_header,
)
from orchestrator.training.materialise import materialise, on_meta
from orchestrator.training.state import WEIGHT, StateReader, check_parameters


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


def open_merged(checkpoint: Checkpoint, role: str | None) -> tuple[StateReader, ModelConfig]:
    """The weights of a role and its model, as a plain one. Raises as `open_role` does."""
    reader, config = merged(open_role(checkpoint, role), checkpoint.model_config(role))
    assert config is not None
    return reader, config


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


def load_model(checkpoint: Checkpoint, role: str | None = None) -> nn.Module:
    """The model of a role with its weights, on the CPU, in fp32."""
    return _build(*open_merged(checkpoint, role))


def load_writer(checkpoint: Checkpoint, role: str | None = None) -> TextModel:
    """The model of a role that can write text. Raises CheckpointError for other models."""
    return build_writer(*open_merged(checkpoint, role), checkpoint.path)


def build_model(reader: StateReader, config: ModelConfig) -> nn.Module:
    """A model of any family with the weights that `reader` finds, on the CPU, in fp32."""
    return _build(reader, config)


def build_writer(reader: StateReader, config: ModelConfig | None, source: Path) -> TextModel:
    """A model that can write text, with the weights that `reader` finds in `source`.

    Raises:
        CheckpointError: the weights are of another kind of model.
    """
    if not isinstance(config, LanguageModelConfig) or not config.writes:
        family = "of the stage's own kind" if config is None else f"of the family {config.family}"
        raise CheckpointError(
            f"{source} holds a model {family}, which does not write text; name one that "
            "predicts the next token, such as those of the family gpt"
        )
    return cast(TextModel, _build(reader, config))


def _build(reader: StateReader, config: ModelConfig) -> nn.Module:
    model = on_meta(config)
    check_parameters(reader, {name: tuple(p.shape) for name, p in model.named_parameters()})
    materialise(model, torch.device("cpu"), seed=0, draw=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(read_whole(reader, name))
    return model
