"""The manifest of a checkpoint: what was saved, in which files, and what identifies them."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import models
from data.files import DataError, json_sha256, parse_json
from data.order.state import DataState
from models.configs import ModelConfig
from orchestrator.record.fencing import PARTIAL as PARTIAL

FORMAT = 3
WHOLE_TENSORS = 2
"""The format before: one model, whole tensors, and facts beside the manifest's own entries."""
OWN_ENTRIES = ("format", "step", "model", "world_size", "files", "digest")
FOLDER = "checkpoints"
"""In a run folder."""
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
MODEL = "model"  # the role that the sections of a job describe
REPLACED = f".replaced{PARTIAL}"  # a checkpoint that one of the same step takes the place of


WEIGHT = "weight"  # the key of a parameter itself, beside those of its optimizer


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another kind than asked for."""


@dataclass(frozen=True)
class FileRecord:
    """What the manifest says of a file."""

    bytes: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


class SavedSlice(NamedTuple):
    """Elements [start, stop) of a parameter that one rank has written."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    keys: tuple[str, ...]
    """What the optimizer keeps of it."""
    start: int
    stop: int


@dataclass(frozen=True)
class SavedTensor:
    """A parameter: its shape, what the optimizer keeps of it, and the ranks that wrote it."""

    shape: tuple[int, ...]
    keys: tuple[str, ...]
    slices: tuple[tuple[int, int, int], ...]
    """(start, stop, rank), in order: the rank's files hold elements [start, stop)."""


@dataclass(frozen=True)
class Base:
    """Saved weights that a checkpoint stands beside: it holds what was trained, and not these."""

    path: str
    """Their checkpoint or folder."""
    relative: str
    """The same as seen from the checkpoint, for what is moved together."""
    role: str
    """Which model of several there."""
    sha256: str
    """Their name in every record: of the manifest of the checkpoint that they come from, or of
    files of Hugging Face."""


@dataclass(frozen=True)
class RoleRecord:
    """A model with a purpose, as it was saved."""

    model: dict[str, Any] | None
    """The config that rebuilds it; None: the stage knows how."""
    optimizer: str | None
    """Whose state was saved; None: a model that was not trained."""
    tensors: dict[str, SavedTensor] | None
    """None in the format before: the files hold whole tensors."""
    base: Base | None = None
    """Where the tensors are that these are not."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        tensors = {
            name: {"shape": t.shape, "keys": t.keys, "slices": t.slices}
            for name, t in (self.tensors or {}).items()
        }
        plain = {"model": self.model, "optimizer": self.optimizer, "tensors": tensors}
        return plain if self.base is None else {**plain, "base": asdict(self.base)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "RoleRecord":
        """Back from `to_dict`."""
        tensors = {
            name: SavedTensor(
                tuple(t["shape"]),
                tuple(t["keys"]),
                tuple((a, b, rank) for a, b, rank in t["slices"]),
            )
            for name, t in plain["tensors"].items()
        }
        base = Base(**plain["base"]) if "base" in plain else None
        return cls(plain["model"], plain["optimizer"], tensors, base)


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint, as its manifest describes it."""

    path: Path
    step: int
    """Optimizer steps done."""
    roles: dict[str, RoleRecord]
    files: dict[str, FileRecord]
    """By path inside the checkpoint."""
    facts: dict[str, Any]
    """What the stage adds, such as the state of its data."""
    manifest_sha256: str
    """Names the checkpoint: it covers the hash of every file."""
    attempt: int | None = None
    """Of its run that wrote it. None: it was written outside of one, or before there were any."""
    passed_over: tuple[str, ...] = ()
    """Why newer ones of its run were not taken, where this one was looked for."""

    @property
    def data(self) -> DataState:
        """Where the run stood in its data, and what it was trained on until then."""
        return DataState.from_dict(self.facts["data"])

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(file.bytes for file in self.files.values())

    @property
    def record(self) -> dict[str, Any]:
        """What the journal of its run says of it."""
        return {"step": self.step, "bytes": self.bytes, "manifest_sha256": self.manifest_sha256}

    @property
    def tokenizer(self) -> Path | None:
        """The tokenizer.json the models were trained with, if there is one."""
        return self.path / TOKENIZER if TOKENIZER in self.files else None

    @property
    def weights_alone(self) -> "Checkpoint":
        """Without the files of optimizers, but for the format before, which mixes them."""
        if any(role.tensors is None for role in self.roles.values()):
            return self
        files = {n: f for n, f in self.files.items() if not Path(n).name.startswith("optim")}
        return replace(self, files=files)

    def role(self, name: str | None = None) -> tuple[str, RoleRecord]:
        """Name and record of a role. None: the only one, or of several the one named model.

        Raises:
            CheckpointError: it is not there, or there are several to choose from.
        """
        if name is None and len(self.roles) == 1:
            name = next(iter(self.roles))
        elif name is None and MODEL in self.roles:
            name = MODEL
        if name not in self.roles:
            has = f"{self.path} has the roles {', '.join(self.roles)}"
            raise CheckpointError(f"{has}; name one" if name is None else f"{has}, not {name}")
        return name, self.roles[name]

    def model_config(self, role: str | None = None) -> ModelConfig:
        """The config that rebuilds the model of a role. Raises CheckpointError if none is kept."""
        name, record = self.role(role)
        if record.model is None:
            raise CheckpointError(f"{self.path} keeps no model config for its role {name}")
        try:
            return models.config_from_dict(record.model)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path} has no model that can be built: {error}") from None


def folder_name(step: int) -> str:
    """Name of the folder of the checkpoint after `step` steps."""
    return f"step_{step:08d}"


def file_of(role: str, key: str, rank: int) -> str:
    """Path, inside the checkpoint, of the file in which a rank keeps its slices of a role."""
    return f"{role}/{'weights' if key == WEIGHT else 'optimizer'}-{rank}.safetensors"


def entry_of(name: str, key: str, start: int, stop: int) -> str:
    """Name of a slice in its file."""
    return f"{name if key == WEIGHT else f'{name}.{key}'}[{start}:{stop}]"


def assemble(shares: Iterable[Iterable[SavedSlice]]) -> dict[str, SavedTensor]:
    """The tensors that the slices of each rank make up.

    Raises:
        RuntimeError: some elements were written by no rank, or by two.
    """
    known: dict[str, SavedSlice] = {}
    slices: dict[str, list[tuple[int, int, int]]] = {}
    for rank, share in enumerate(shares):
        for own in share:
            known.setdefault(own.name, own)
            slices.setdefault(own.name, []).append((own.start, own.stop, rank))
    tensors = {}
    for name, parts in slices.items():
        parts.sort()
        size = math.prod(known[name].shape)
        gaps = any(before[1] != after[0] for before, after in pairwise(parts))
        if gaps or parts[0][0] != 0 or parts[-1][1] != size:
            raise RuntimeError(
                f"{name} has {size} elements, each to be saved by one rank; saved were, as start, "
                f"stop and rank: {parts}"
            )
        tensors[name] = SavedTensor(known[name].shape, known[name].keys, tuple(parts))
    return tensors


def to_text(
    step: int,
    roles: Mapping[str, RoleRecord],
    files: Mapping[str, FileRecord],
    facts: Mapping[str, Any],
    writer: Mapping[str, int],
) -> str:
    """What manifest.json says of a checkpoint; `writer` is a `Fence.record`."""
    manifest = {
        "format": FORMAT,
        "step": step,
        "roles": {name: role.to_dict() for name, role in roles.items()},
        "files": {name: file.to_dict() for name, file in files.items()},
        "facts": dict(facts),
        "writer": dict(writer),
    }
    return json.dumps({**manifest, "digest": json_sha256(manifest)})


def parse(path: Path, text: bytes) -> Checkpoint:
    """The checkpoint in the folder `path` whose manifest.json this is. Raises CheckpointError."""
    file = path / MANIFEST
    try:
        manifest = parse_json(text)
        digest = manifest.pop("digest", None) if isinstance(manifest, dict) else None
        whole = digest == json_sha256(manifest)
    except DataError as error:
        raise CheckpointError(f"{file} is damaged: it {error}") from None
    except RecursionError:
        raise CheckpointError(f"{file} is damaged: it is nested too deeply") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found not in (FORMAT, WHOLE_TENSORS):
        raise CheckpointError(
            f"{file} has format {found}, and this version reads {WHOLE_TENSORS} and {FORMAT}; use "
            "the version that wrote it"
        )
    if not whole:
        raise CheckpointError(f"{file} is damaged: it differs from its own digest")
    try:
        return _checkpoint(path, manifest, hashlib.sha256(text).hexdigest())
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        said = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file} was written by something else ({said})") from None


def _checkpoint(path: Path, manifest: Mapping[str, Any], sha256: str) -> Checkpoint:
    """The checkpoint of a manifest that agrees with its digest."""
    if manifest["format"] == FORMAT:
        roles = {name: RoleRecord.from_dict(role) for name, role in manifest["roles"].items()}
        facts = dict(manifest["facts"])
    else:
        roles = {"model": RoleRecord(manifest["model"], "adamw", None)}
        facts = {key: value for key, value in manifest.items() if key not in OWN_ENTRIES}
    files = {name: FileRecord(**record) for name, record in manifest["files"].items()}
    attempt = manifest.get("writer", {}).get("attempt")
    return Checkpoint(path, int(manifest["step"]), roles, files, facts, sha256, attempt)


def read(path: Path) -> Checkpoint:
    """The checkpoint in this folder, its files not yet verified. Raises CheckpointError."""
    file = path / MANIFEST
    try:
        return parse(path, file.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a checkpoint: it has no {MANIFEST}") from None
    except OSError as error:
        raise CheckpointError(f"{file} can't be read: {error.strerror}") from None
