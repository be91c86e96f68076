"""Saving: each rank writes what it holds, hashed on its way; the manifest comes last.

1. Rank 0 makes the folder `step_00000100.000001.partial/`; the number is its attempt's fence.
2. Each rank writes the slices of its engines into `ROLE/` in it and flushes them.
3. Rank 0 gathers what was written, checks that nothing is missing, and writes the manifest.
4. The folder gets its final name, and the ranks learn that, or why not. Nobody waits before this.

Nothing is read: the sizes and hashes in the manifest are those of the bytes as they were written.
"""

import functools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
from data.files import fsync_folder
from models.configs import ModelConfig
from orchestrator.record.checkpoints import manifest
from orchestrator.record.checkpoints.content import all_finite
from orchestrator.record.checkpoints.manifest import (
    MANIFEST,
    REPLACED,
    TOKENIZER,
    Base,
    Checkpoint,
    FileRecord,
    RoleRecord,
    SavedSlice,
    entry_of,
    file_of,
    folder_name,
)
from orchestrator.record.checkpoints.retention import NEEDED
from orchestrator.record.fencing import PARTIAL, Fence
from orchestrator.training import distributed
from orchestrator.training.checkpoint.opening import Weights
from orchestrator.training.checkpoint.tensorfile import HashedFile, TensorWriter
from orchestrator.training.state import WEIGHT, Slice


class NonFiniteState(RuntimeError):
    """Weights or optimizer state to be saved hold NaN or infinity."""


class SaveFailed(RuntimeError):
    """Another rank could not save its part."""


@dataclass(frozen=True)
class SavedRole:
    """A model to save."""

    state: Callable[[], Iterator[Slice]]
    """What this rank holds; called twice, with the same slices in the same order."""
    model_config: ModelConfig | None
    """With the vocabulary size filled in. None: a model that only its stage can rebuild."""
    optimizer: str | None
    """Name of the optimizer whose state the slices carry, if any."""
    base: Weights | None = None
    """Those that hold whatever the slices do not."""


@dataclass(frozen=True)
class _Share:
    """What one rank has written, or why it could not."""

    files: dict[str, FileRecord]
    slices: dict[str, list[SavedSlice]]
    """By role."""
    failure: str | None = None


def save(
    root: Path,
    step: int,
    roles: Mapping[str, SavedRole],
    tokenizer: Path | None,
    facts: Mapping[str, Any],
    fence: Fence | None = None,
    group: distributed.Group = None,
) -> Checkpoint:
    """Write and publish the checkpoint of this step. Every rank calls it, with the same roles.

    Args:
        root: the `checkpoints/` folder, which all ranks see.
        step: optimizer steps done.
        roles: the models by name, each with the part of its state that this rank holds.
        tokenizer: the tokenizer.json the models were trained with, if they have one.
        facts: plain entries for the manifest, such as the state of the data; rank 0's count.
        fence: the attempt that saves. None: nobody else can be writing there.
        group: by which the ranks agree.

    Raises:
        Fenced: on rank 0, another attempt has taken the run; nothing is published.
        NonFiniteState: on the rank that holds such an element; nothing is published.
        OSError: on the rank that could not write.
        SaveFailed: on all other ranks when one could not save.
    """
    final = root / folder_name(step)
    partial = final.with_name(final.name + PARTIAL) if fence is None else fence.staged(final)
    _make(partial, fence, group)
    error: Exception | None = None
    try:
        share = _write_share(partial, roles)
    except Exception as caught:  # told to the others before it ends this rank
        error, share = caught, _Share({}, {}, f"{type(caught).__name__}: {caught}")
    shares = distributed.gather_on_rank_0(share, group)
    outcome: Checkpoint | str = ""
    if shares is not None:
        try:
            text = _complete(partial, step, roles, shares, tokenizer, facts, fence)
            if fence is not None:
                fence.check()
            _rename(partial, final)
            outcome = manifest.parse(final, text)
        except Exception as caught:
            error, outcome = error or caught, str(caught)
            shutil.rmtree(partial, ignore_errors=True)
    outcome = distributed.broadcast_object(outcome, group)
    if error is not None:
        raise error
    if isinstance(outcome, str):
        raise SaveFailed(outcome)
    return outcome


def _make(partial: Path, fence: Fence | None, group: distributed.Group) -> None:
    """Rank 0 makes the folder, which no other attempt writes to. Every rank calls it."""
    error: Exception | None = None
    if distributed.rank() == 0:
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            if fence is not None:
                fence.check()
        except Exception as caught:
            error = caught
    said = distributed.broadcast_object(None if error is None else f"{error}", group)
    if error is not None:
        raise error
    if said is not None:
        raise SaveFailed(f"rank 0 could not begin to save: {said}")


def _write_share(partial: Path, roles: Mapping[str, SavedRole]) -> _Share:
    share = _Share({}, {})
    for role, saved in roles.items():
        folder = partial / role  # not `partial` itself: gone, it is another attempt's run
        folder.mkdir(exist_ok=True)
        share.slices[role] = [
            SavedSlice(
                own.name,
                own.shape,
                tuple(key for key in own.tensors if key != WEIGHT),
                own.start,
                own.start + own.length,
            )
            for own in saved.state()
        ]
        share.files.update(_write_slices(partial, role, saved, share.slices[role]))
        fsync_folder(folder)
    return share


def _write_slices(
    partial: Path,
    role: str,
    saved: SavedRole,
    planned: list[SavedSlice],
) -> dict[str, FileRecord]:
    """Write this rank's files of a role; their records by path inside the checkpoint."""
    entries: dict[str, dict[str, tuple[int]]] = {}
    for name, _, keys, start, stop in planned:
        for key in (WEIGHT, *keys):
            file = file_of(role, key, distributed.rank())
            entries.setdefault(file, {})[entry_of(name, key, start, stop)] = (stop - start,)
    with ExitStack() as stack:
        writers = {
            file: stack.enter_context(TensorWriter(partial / file, shapes))
            for file, shapes in entries.items()
        }
        for (name, _, keys, start, stop), found in zip(planned, saved.state(), strict=True):
            if (found.name, found.start, found.length) != (name, start, stop - start):
                raise RuntimeError(f"{role}: {found.name} was to be saved, {name} was expected")
            for key in (WEIGHT, *keys):
                writer = writers[file_of(role, key, distributed.rank())]
                writer.write_tensor(
                    found.tensors[key], functools.partial(_check_finite, role, name, key)
                )
    return {file: writer.record for file, writer in writers.items()}


def _check_finite(role: str, name: str, key: str, data: memoryview) -> None:
    """Raise NonFiniteState for NaN or infinity."""
    if not all_finite(data):
        raise NonFiniteState(
            f"non-finite {key} of {name} in the role {role}: not saved; "
            "the newest checkpoint is from before"
        )


def _complete(
    partial: Path,
    step: int,
    roles: Mapping[str, SavedRole],
    shares: list[_Share],
    tokenizer: Path | None,
    facts: Mapping[str, Any],
    fence: Fence | None,
) -> bytes:
    """Complete the folder; returns the text of its manifest. Rank 0 alone calls it."""
    for rank, share in enumerate(shares):
        if share.failure is not None:
            raise SaveFailed(f"rank {rank} could not save step {step}: {share.failure}")
    files = {name: record for share in shares for name, record in share.files.items()}
    records = {
        role: RoleRecord(
            models.config_to_dict(saved.model_config) if saved.model_config else None,
            saved.optimizer,
            manifest.assemble(share.slices[role] for share in shares),
            None if saved.base is None else _beside(saved.base, partial.parent),
        )
        for role, saved in roles.items()
    }
    if tokenizer is not None:
        with HashedFile(partial / TOKENIZER) as copy:
            copy.write(tokenizer.read_bytes())
        files[TOKENIZER] = copy.record
    writer = {} if fence is None else fence.record
    text = manifest.to_text(step, records, files, facts, writer).encode()
    with HashedFile(partial / MANIFEST) as file:
        file.write(text)
    fsync_folder(partial)
    return text


def _beside(weights: Weights, root: Path) -> Base:
    """How a checkpoint below `root` names the weights that it stands beside, and they it: those of
    a run stay for as long as it may go on (Retention).
    """
    path = weights.path.resolve()
    if (path / MANIFEST).is_file():
        with suppress(OSError):  # another's, who may delete it
            (path / NEEDED).touch()
    relative = os.path.relpath(path, root.resolve() / folder_name(0))
    return Base(str(path), relative, weights.role, weights.manifest_sha256)


def _rename(partial: Path, final: Path) -> None:
    """Publish; a checkpoint of the same step, from before a resume, makes room."""
    replaced = final.with_name(final.name + REPLACED)
    if final.exists():
        final.rename(replaced)
    try:
        partial.rename(final)
    except OSError:  # moved away: another attempt has just taken the run
        if replaced.exists():
            replaced.rename(final)
        raise
    fsync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
