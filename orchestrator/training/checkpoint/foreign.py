"""Weights in the folder of a Hugging Face model, read by ranges as if they were ours.

The folder has config.json, *.safetensors and, of its tokenizer, tokenizer.json. Which tensors make
up ours is for `models.hf` to say; their numbers may be fp32, fp16 or bf16.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from data.files import DataError, read_json, sha256_file
from data.messages import listed
from models.configs import BertConfig, GPTConfig, HFConfig, TokenModelConfig
from models.hf.architectures import config_of
from models.hf.tensors import PREFIXES, Part, parts, places
from orchestrator.record.checkpoints.manifest import CheckpointError
from orchestrator.training.checkpoint.tensorfile import (
    DTYPES,
    StoredTensor,
    TensorFileError,
    read_header,
    read_numbers,
)
from orchestrator.training.materialise import on_meta
from orchestrator.training.state import WEIGHT

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"


def foreign_config(folder: Path) -> TokenModelConfig:
    """The config of the model in a folder. Raises CheckpointError for one that can't be built."""
    plain = _read(folder)
    if plain.get("quantization_config"):
        raise CheckpointError(
            f"{folder / CONFIG}: its weights are quantized, and training needs plain numbers; take "
            "the model that it was made of"
        )
    try:
        return config_of(plain)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / CONFIG} can't be used: {error}") from None


def open_foreign(folder: Path) -> tuple["ForeignTensors", TokenModelConfig]:
    """The tensors and the config of the model in a folder; no number is read yet.

    Raises:
        CheckpointError: a tensor is missing, has another shape or no place in the model; names it.
    """
    config = foreign_config(folder)
    if isinstance(config, GPTConfig | BertConfig):
        kind = str(_read(folder)["model_type"])
        return ForeignTensors(folder, parts(config, kind), PREFIXES[kind], kind), config
    from models.hf.wrapped import HFModel

    assert isinstance(config, HFConfig)
    theirs = cast(HFModel, on_meta(config))
    return ForeignTensors(folder, theirs.parts(), theirs.prefix), config


def identity(folder: Path) -> str:
    """A sha256 over config and weights, which names them in every record; reads all of them."""
    files = (folder / CONFIG, *_files(folder))
    return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()


class ForeignTensors:
    """A `StateReader` of their files: each parameter of ours is some of their tensors, stacked."""

    def __init__(
        self,
        folder: Path,
        wanted: Mapping[str, Sequence[Part]],
        prefix: str,
        kind: str | None = None,
    ) -> None:
        """Compare what is there with what is wanted.

        Args:
            folder: of the files.
            wanted: the parts of each parameter of ours, by their full names.
            prefix: what a file may have left out of these.
            kind: the model_type of a module of ours: tensors that nobody wants are refused then,
                as they would change what the model computes.
        """
        self._wanted = wanted
        self._stored: dict[str, tuple[Path, StoredTensor]] = {}
        self._turned: tuple[str, Tensor] | None = None  # the last that was stored inputs first
        tensors = [part for own in wanted.values() for part in own]
        names = {part.name for part in tensors}
        try:
            for file in _files(folder):
                header = read_header(file, DTYPES)
                known = places(header, names, kind, prefix)
                self._stored |= {full: (file, header[name]) for full, name in known.items()}
        except TensorFileError as error:
            raise CheckpointError(str(error)) from None
        for part in tensors:
            found = self._stored[part.name][1].shape if part.name in self._stored else None
            if found != part.shape:
                said = "is missing" if found is None else f"has shape {found}"
                raise CheckpointError(
                    f"{folder}: {part.name} {said}; by its {CONFIG} it has shape {part.shape}"
                )
        extra = self._stored.keys() - names - {"lm_head.weight"}  # tied, and stored nevertheless
        if extra and kind is not None:
            raise CheckpointError(
                f"{folder}: by its {CONFIG} the model has no place for {listed(sorted(extra))}"
            )

    def names(self) -> Iterator[str]:
        """Names of the parameters of ours."""
        return iter(self._wanted)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter of ours."""
        shapes = [part.ours for part in self._wanted[name]]
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter: itself alone."""
        return frozenset((WEIGHT,)) if name in self._wanted else frozenset()

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened parameter, fp32, on the CPU."""
        if key != WEIGHT:
            raise KeyError(f"{name}: {key}")
        if not 0 <= start <= stop <= math.prod(self.shape(name)):
            raise IndexError(f"elements {start} to {stop} of {name}")
        found, first = [], 0
        for part in self._wanted[name]:
            last = first + math.prod(part.shape)
            low, high = max(start, first), min(stop, last)
            if low < high:
                found.append(self._elements(part, low - first, high - first))
            first = last
        return torch.cat(found) if found else torch.empty(0)

    def _elements(self, part: Part, start: int, stop: int) -> Tensor:
        file, stored = self._stored[part.name]
        if not part.transposed:
            return read_numbers(file, stored, start, stop - start)
        if self._turned is None or self._turned[0] != part.name:
            whole = read_numbers(file, stored, 0, math.prod(part.shape)).view(part.shape)
            self._turned = part.name, whole.T.flatten()
        return self._turned[1][start:stop].clone()


def _read(folder: Path) -> dict[str, object]:
    try:
        plain = read_json(folder / CONFIG)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(plain, dict):
        raise CheckpointError(f"{folder / CONFIG} is no config of a model")
    return plain


def _files(folder: Path) -> list[Path]:
    """The files of weights. Raises CheckpointError for names that lead out of the folder."""
    if (folder / INDEX).is_file():
        try:
            names = sorted(set(map(str, read_json(folder / INDEX)["weight_map"].values())))
        except (DataError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{folder / INDEX} is no index of weights: {error}") from None
    else:
        names = ["model.safetensors"]
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{folder} has no {name}, where its weights should be")
    return [folder / name for name in names]
