"""Checkpoints: written aside, hashed, manifest last, then renamed into place.

`checkpoints/step_00000100/` holds per rank `weights-K.safetensors` and `optimizer-K.safetensors`
(each rank writes a share of the parameters, whole and in fp32), the tokenizer, and
`manifest.json` with the size and sha256 of every file, the step, the position in the data and
the config that rebuilds the model. Nothing depends on the engine, ZeRO stage or world size that
wrote it, and reading needs neither Ray nor DeepSpeed nor pickle. A folder without a manifest, or
with a file that does not match it, is not a checkpoint.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import models
from data.files import publish, sha256_file
from data.order.state import DataState
from models.configs import ModelConfig
from models.gpt import GPT
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.state import WEIGHT

FORMAT = 2
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, or of another kind than asked for."""


@dataclass(frozen=True)
class Checkpoint:
    """A published checkpoint. `manifest` is what manifest.json says."""

    path: Path
    manifest: dict[str, Any]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.manifest["step"])

    @property
    def data(self) -> DataState:
        """Where the run stood in its data, and what it was trained on until then."""
        return DataState.from_dict(self.manifest["data"])

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(int(file["bytes"]) for file in self.manifest["files"].values())

    @cached_property
    def manifest_sha256(self) -> str:
        """Names the checkpoint: it covers the hash of every file."""
        return sha256_file(self.path / MANIFEST)

    @property
    def model_config(self) -> ModelConfig:
        """The config that rebuilds the model."""
        return models.config_from_dict(self.manifest["model"])


def folder_name(step: int) -> str:
    """Name of the folder of the checkpoint after `step` steps."""
    return f"step_{step:08d}"


def save(
    root: Path,
    step: int,
    engine: Engine,
    model_config: ModelConfig,
    tokenizer: Path,
    facts: Mapping[str, Any],
) -> Checkpoint:
    """Write and publish the checkpoint of this step. Every rank calls it.

    Args:
        root: the `checkpoints/` folder, which all ranks see.
        step: optimizer steps done.
        engine: whose state is saved.
        model_config: with the vocabulary size filled in.
        tokenizer: the tokenizer.json the model was trained with.
        facts: more plain entries for the manifest, such as the state of the data.
    """
    final = root / folder_name(step)
    partial = final.with_name(final.name + ".partial")
    rank, world_size = distributed.rank(), distributed.world_size()
    if rank == 0:
        shutil.rmtree(partial, ignore_errors=True)  # of a writer that was killed
        partial.mkdir(parents=True)
        shutil.copyfile(tokenizer, partial / TOKENIZER)
    distributed.barrier()
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    for index, (name, tensors) in enumerate(_whole(engine).items()):
        if index % world_size == rank:
            weights[name] = tensors.pop(WEIGHT)
            moments |= {f"{name}.{key}": value for key, value in tensors.items()}
    save_file(weights, partial / f"weights-{rank}.safetensors")
    save_file(moments, partial / f"optimizer-{rank}.safetensors")
    mine = {path.name: _describe(path) for path in partial.glob(f"*-{rank}.safetensors")}
    described = distributed.gather_objects(mine)
    if rank == 0:
        files = {TOKENIZER: _describe(partial / TOKENIZER)}
        for own in described:
            files |= own
        manifest = {
            "format": FORMAT,
            "step": step,
            "model": models.config_to_dict(model_config),
            "world_size": world_size,
            **facts,
            "files": files,
        }
        manifest["digest"] = digest(manifest)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)  # of the same step, before a resume
        publish(partial, final)
    distributed.barrier()
    return read(final)


def read(path: Path) -> Checkpoint:
    """The checkpoint in this folder, its files not yet verified. Raises CheckpointError."""
    file = path / MANIFEST
    if not file.is_file():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {MANIFEST}")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged ({error}); use an older checkpoint") from None
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"{file} has format {found}, expected {FORMAT}")
    if manifest.pop("digest", None) != digest(manifest):
        raise CheckpointError(
            f"{file} is damaged: it differs from its own digest; use an older checkpoint"
        )
    return Checkpoint(path, manifest)


def verify(checkpoint: Checkpoint) -> None:
    """Compare every file with the manifest. Raises CheckpointError at the first that differs."""
    for name, expected in checkpoint.manifest["files"].items():
        file = checkpoint.path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; use an older checkpoint")
        found = _describe(file)
        if found != expected:
            raise CheckpointError(
                f"{file} is damaged: {found['bytes']} bytes with sha256 {found['sha256'][:12]}, "
                f"the manifest says {expected['bytes']} and {expected['sha256'][:12]}; "
                "use an older checkpoint"
            )


def published(root: Path) -> list[Path]:
    """Folders of checkpoints under `root`, oldest first."""
    return sorted(path for path in root.glob("step_*") if path.suffix != ".partial")


def newest_valid(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files all verify, and why newer ones were passed over."""
    rejected = []
    for path in reversed(published(root)):
        try:
            checkpoint = read(path)
            verify(checkpoint)
        except CheckpointError as error:
            rejected.append(str(error))
            continue
        return checkpoint, rejected
    return None, rejected


def find(path: Path) -> Checkpoint:
    """The verified checkpoint a user means by a checkpoint folder or a run folder."""
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; `ls outputs` shows the runs there are")
    if (path / MANIFEST).is_file():
        checkpoint = read(path)
        verify(checkpoint)
        return checkpoint
    root = path if path.name == "checkpoints" else path / "checkpoints"
    newest, rejected = newest_valid(root)
    if newest is None:
        reason = "; ".join(rejected) or "no checkpoint has been published there"
        raise CheckpointError(f"{path} holds no valid checkpoint: {reason}")
    return newest


def retain(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints and the newest valid one. Rank 0 alone calls it.

    The two differ only when a disk has damaged what was written.
    """
    doomed = published(root)[:-keep]
    valid = newest_valid(root)[0] if doomed else None
    for path in doomed:
        if valid is not None and path == valid.path:
            continue
        # The manifest goes first, so that a half-deleted folder is not taken for a checkpoint.
        (path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)


def load_gpt(checkpoint: Checkpoint) -> GPT:
    """The model of a checkpoint that can write text. Raises CheckpointError for other families."""
    model = load_model(checkpoint)
    if not isinstance(model, GPT):
        raise CheckpointError(
            f"{checkpoint.path} holds a model of the family {checkpoint.model_config.family}, "
            "which does not write text; give a checkpoint of the family gpt"
        )
    return model


def load_model(checkpoint: Checkpoint) -> nn.Module:
    """The model of a checkpoint with its weights, on the CPU, in fp32."""
    with torch.device("meta"):
        model = models.build(checkpoint.model_config)
    model.load_state_dict(_weights(checkpoint), assign=True)
    return model


class SavedState:
    """The state in a checkpoint, read from the disk by ranges: a StateReader."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Open the files of the checkpoint; reads only their headers."""
        self._tensors: dict[str, dict[str, Any]] = {}
        for file in sorted(checkpoint.manifest["files"]):
            if file.endswith(".safetensors"):
                handle: Any = safe_open(checkpoint.path / file, framework="pt")
                for stored in list(handle.keys()):
                    name, key = stored, WEIGHT
                    if file.startswith("optimizer"):
                        name, _, key = stored.rpartition(".")
                    self._tensors.setdefault(name, {})[key] = handle.get_slice(stored)

    def names(self) -> Iterator[str]:
        """Names of the parameters."""
        return iter(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return tuple(self._tensors[name][WEIGHT].get_shape())

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter."""
        return frozenset(self._tensors[name])

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened tensor."""
        stored = self._tensors[name][key]
        rows = stored.get_shape()[0]
        width = math.prod(stored.get_shape()[1:])
        first, last = start // width, min(rows, -(-stop // width))
        part: Tensor = stored[first:last].flatten()
        return part[start - first * width : stop - first * width]


def _whole(engine: Engine) -> dict[str, dict[str, Tensor]]:
    """Every parameter with its optimizer state, put together from the slices of all ranks."""
    parameters: dict[str, dict[str, Tensor]] = {}
    mine = [
        (s.name, s.shape, s.start, {k: v.cpu() for k, v in s.tensors.items()})
        for s in engine.state()
    ]
    for slices in distributed.gather_objects(mine):
        for name, shape, start, tensors in slices:
            whole = parameters.setdefault(name, {key: torch.empty(shape) for key in tensors})
            for key, value in tensors.items():
                whole[key].view(-1)[start : start + len(value)] = value
    return dict(sorted(parameters.items()))


def _weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name in sorted(checkpoint.manifest["files"]):  # only what the manifest vouches for
        if name.startswith("weights-"):
            weights |= load_file(checkpoint.path / name)
    return weights


def _describe(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def digest(facts: Mapping[str, Any]) -> str:
    """sha256 of plain data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
