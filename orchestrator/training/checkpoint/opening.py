"""Opening the weights and models that checkpoints, exported and foreign folders hold.

What an adapter has learned is saved alone, beside weights that stay where they are: `open_role`
puts both together.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

import models
from data.files import sha256_file
from data.messages import short
from models.configs import LanguageModelConfig, ModelConfig
from models.decoding import TextModel
from models.formulas.adapters import merged_config
from orchestrator.record.checkpoints.cached import on_this_host
from orchestrator.record.checkpoints.finding import find_best, newest_of, published
from orchestrator.record.checkpoints.manifest import (
    FOLDER,
    MANIFEST,
    TOKENIZER,
    Base,
    Checkpoint,
    CheckpointError,
    read,
)
from orchestrator.training.checkpoint.foreign import (
    CONFIG,
    foreign_config,
    identity,
    open_foreign,
)
from orchestrator.training.checkpoint.merging import merged
from orchestrator.training.checkpoint.reading import SlicedTensors, WholeTensors, read_whole
from orchestrator.training.materialise import materialise, on_meta
from orchestrator.training.state import WEIGHT, StateReader, check_parameters

MODEL = "model.json"
WEIGHTS = "model.safetensors"
FOREIGN_ROLE = "model"  # of weights that no stage of ours made


class Weights(NamedTuple):
    """Weights to start a model from."""

    reader: StateReader
    model_config: ModelConfig | None
    """None: only the stage that made them knows the model."""
    tokenizer: Path | None
    path: Path
    """The checkpoint or exported folder that was found and verified."""
    role: str
    step: int
    """Optimizer steps that made them."""
    manifest_sha256: str
    """Of the checkpoint that they come from: its name in every record."""
    foreign: bool = False
    """Whether they are of Hugging Face, and no step of ours made them."""
    passed_over: tuple[str, ...] = ()
    """Why newer checkpoints of the same run were not taken."""
    differs: tuple[str, ...] = ()
    """What a model takes otherwise than it was saved, once a model is known."""

    def named(self) -> "Weights":
        """The same with their name, of which a look without verifying knows nothing where they are
        foreign; it reads all of them then.
        """
        return self if self.manifest_sha256 else self._replace(manifest_sha256=identity(self.path))

    def lines(self, role: str) -> list[str]:
        """Where a role gets them from, for a plan."""
        passed_over = [f"passed over: {reason}" for reason in self.passed_over]
        made = "of Hugging Face" if self.foreign else f"step {self.step}"
        return [*passed_over, f"{role} from {short(self.path)}, {made}", *self.differs]


@dataclass(frozen=True)
class Beside:
    """A StateReader of what a checkpoint holds, and of the weights that it stands beside."""

    own: StateReader
    weights: Weights
    parameters: tuple[str, ...]
    """Of the whole model."""

    def names(self) -> Iterator[str]:
        """Names of the parameters."""
        return iter(self.parameters)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self._of(name).shape(name)

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter; of one that stays, its weight alone."""
        reader = self._of(name)
        return reader.keys(name) if reader is self.own else frozenset({WEIGHT})

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor, fp32, on the CPU."""
        return self._of(name).read(name, key, start, stop)

    def _of(self, name: str) -> StateReader:
        return self.own if name in self.own.names() else self.weights.reader


def open_role(
    checkpoint: Checkpoint, role: str | None = None, *, verified: bool = True
) -> StateReader:
    """The saved state of a role; None: the only one. Reads no tensor yet.

    Args:
        checkpoint: of which the role is.
        role: its name.
        verified: whether the weights that an adapter stands beside need not be read once for that.

    Raises:
        CheckpointError: the checkpoint has no such role, or several to choose from; or what it
            stands beside is gone, or has become other weights.
    """
    name, record = checkpoint.role(role)
    if record.tensors is None:
        files = sorted(file for file in checkpoint.files if file.endswith(".safetensors"))
        return WholeTensors([checkpoint.path / file for file in files])
    own = SlicedTensors(checkpoint.path, name, record.tensors)
    if record.base is None:
        return own
    weights = _open_base(checkpoint, record.base, verified)
    model = on_meta(checkpoint.model_config(name))
    return Beside(own, weights, tuple(n for n, _ in model.named_parameters()))


def _open_base(checkpoint: Checkpoint, base: Base, verified: bool) -> Weights:
    """The weights that a checkpoint stands beside: where they were, as seen from it or at all."""
    near = Path(os.path.normpath(checkpoint.path.resolve() / base.relative))
    path = near if near.exists() else Path(base.path)
    said = f"{checkpoint.path} holds what an adapter has learned beside the weights in {path}"
    try:
        found = open_weights(path, base.role, verified=verified)
    except CheckpointError as error:
        raise CheckpointError(
            f"{said}, sha256 {base.sha256[:12]}, which can't be used: {error}; bring them back "
            "there"
        ) from None
    if found.manifest_sha256 not in ("", base.sha256):
        raise CheckpointError(
            f"{said}, sha256 {base.sha256[:12]}, and there are others, {found.manifest_sha256[:12]}"
            "; bring them back there"
        )
    return found._replace(manifest_sha256=base.sha256)


def open_merged(checkpoint: Checkpoint, role: str | None) -> tuple[StateReader, ModelConfig]:
    """The weights of a role and its model, as a plain one. Raises as `open_role` does."""
    reader, config = merged(open_role(checkpoint, role), checkpoint.model_config(role))
    assert config is not None
    return reader, config


def opened(
    checkpoint: Checkpoint, role: str | None, *, verified: bool = True
) -> tuple[StateReader, ModelConfig | None]:
    """A role's weights with what adapters add to them, and its model, if its stage tells it."""
    name, record = checkpoint.role(role)
    config = None if record.model is None else checkpoint.model_config(name)
    return merged(open_role(checkpoint, name, verified=verified), config)


def open_weights(
    place: str | Path,
    role: str | None = None,
    *,
    setting: str = "checkpoint",
    verified: bool = False,
) -> Weights:
    """The verified weights in a run folder, checkpoint, exported or Hugging Face folder.

    Args:
        place: where they are, or the URL of a run or checkpoint, of which the weights alone are
            fetched; of a run, the best checkpoint if it keeps that, else the newest.
        role: of a checkpoint; None: the only one. An exported folder holds one role.
        setting: whose value the place is, for messages about a URL.
        verified: whether another process, such as the driver for its ranks, has just verified
            that very checkpoint or folder, so that it need not be read once more for that.

    Raises:
        CheckpointError: nothing valid is there, or not that role.
    """
    path = Path(place)
    if (path / MODEL).is_file():
        return _open_exported(path, role, verified)
    if (path / CONFIG).is_file():
        return _open_foreign(path, role, verified)
    where = on_this_host(path)
    checkpoint = read(where) if verified else find_best(place, setting)
    name, _ = checkpoint.role(role)
    return Weights(
        *opened(checkpoint, name, verified=verified),
        checkpoint.tokenizer,
        checkpoint.path,
        name,
        checkpoint.step,
        checkpoint.manifest_sha256,
        passed_over=checkpoint.passed_over,
    )


def described(path: Path, role: str | None = None) -> tuple[ModelConfig | None, Path | None]:
    """What model the weights are of, and a tokenizer that stays with them; nothing is verified.

    A checkpoint of a run keeps its tokenizer only as long as the run keeps the checkpoint: None.

    Raises:
        CheckpointError: there are none, or not that role.
    """
    tokenizer = path / TOKENIZER if (path / TOKENIZER).is_file() else None
    if (path / MODEL).is_file():
        return _open_exported(path, role, verified=True).model_config, tokenizer
    if (path / CONFIG).is_file():
        return foreign_config(path), tokenizer
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; `ls outputs` shows the runs there are")
    folders = [path] if (path / MANIFEST).is_file() else published(path / FOLDER)
    found, rejected = newest_of(folders, read)
    if found is None:
        raise CheckpointError(f"{path} holds no checkpoint{'; '.join(['', *rejected])}")
    name, record = found.role(role)
    return (None if record.model is None else merged_config(found.model_config(name))), None


def _open_exported(folder: Path, role: str | None, verified: bool) -> Weights:
    try:
        described: dict[str, Any] = json.loads((folder / MODEL).read_bytes())
        hashes = {name: file["sha256"] for name, file in described["files"].items()}
        plain, source = described["model"], described["source"]
        config = models.config_from_dict(plain) if plain is not None else None
        has, step, manifest_sha256 = source["role"], source["step"], source["manifest_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / MODEL} is damaged ({error}); export it again") from None
    if role not in (None, has):
        raise CheckpointError(f"{folder} has the role {has}, not {role}; name that")
    for name, sha256 in ({} if verified else hashes).items():
        if not (folder / name).is_file() or sha256_file(folder / name) != sha256:
            raise CheckpointError(f"{folder / name} is missing or damaged; export it again")
    return Weights(
        WholeTensors([folder / WEIGHTS]),
        config,
        folder / TOKENIZER if TOKENIZER in hashes else None,
        folder,
        has,
        step,
        manifest_sha256,
    )


def _open_foreign(folder: Path, role: str | None, verified: bool) -> Weights:
    if role not in (None, FOREIGN_ROLE):
        raise CheckpointError(f"{folder} has one model; leave its role {role} out")
    reader, config = open_foreign(folder)
    return Weights(
        reader,
        config,
        folder / TOKENIZER if (folder / TOKENIZER).is_file() else None,
        folder,
        FOREIGN_ROLE,
        0,
        "" if verified else identity(folder),
        foreign=True,
    )


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
