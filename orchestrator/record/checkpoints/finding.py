"""Finding the checkpoint to go on from: the newest that its files, hashed anew, bear out."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from data.addresses import is_url
from data.messages import short
from orchestrator.record.checkpoints.cached import cache_entry
from orchestrator.record.checkpoints.content import look
from orchestrator.record.checkpoints.manifest import (
    FOLDER,
    MANIFEST,
    PARTIAL,
    Checkpoint,
    CheckpointError,
    read,
)

SELECTION = "selection"  # the entry of a manifest that says which evaluation was the best


def check_sizes(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a file that is missing or of another size; reads no content."""
    for name, expected in checkpoint.files.items():
        file = checkpoint.path / name
        try:
            found = file.stat().st_size
        except OSError:
            raise CheckpointError(f"{file} is missing") from None
        if found != expected.bytes:
            raise CheckpointError(
                f"{file} is damaged: {found} bytes, the manifest says {expected.bytes}"
            )


def check_content(checkpoint: Checkpoint, share: int = 0, shares: int = 1) -> None:
    """Read the files, or one of several shares of about the same size, once.

    Raises:
        CheckpointError: a file differs from what the manifest says, can't be read, or holds
            numbers that are not finite, from which no training can go on.
    """
    for name in _files_of(checkpoint, share, shares):
        file, expected = checkpoint.path / name, checkpoint.files[name].sha256
        try:
            found, finite = look(file)
        except OSError as error:
            raise CheckpointError(f"{file} can't be read: {error.strerror}") from None
        if found != expected:
            raise CheckpointError(
                f"{file} is damaged: its sha256 is {found[:12]}, the manifest says {expected[:12]}"
            )
        if not finite:
            raise CheckpointError(f"{file} holds numbers that are not finite: training diverged")


def _files_of(checkpoint: Checkpoint, share: int, shares: int) -> list[str]:
    """Largest first, each file goes to the share that has least."""
    loads, mine = [0] * shares, []
    for name, file in sorted(checkpoint.files.items(), key=lambda item: (-item[1].bytes, item[0])):
        least = loads.index(min(loads))
        loads[least] += file.bytes
        if least == share:
            mine.append(name)
    return mine


def verify(path: Path, weights_only: bool = False) -> Checkpoint:
    """The checkpoint in this folder, all of its files verified, or those of its weights.

    Raises CheckpointError.
    """
    checkpoint = read(path)
    if weights_only:
        checkpoint = checkpoint.weights_alone
    check_sizes(checkpoint)
    check_content(checkpoint)
    return checkpoint


def read_complete(path: Path) -> Checkpoint:
    """The checkpoint in this folder, all of its files there. Raises CheckpointError."""
    checkpoint = read(path)
    check_sizes(checkpoint)
    return checkpoint


def published(root: Path) -> list[Path]:
    """Folders of checkpoints under `root`, oldest first."""
    return sorted(path for path in root.glob("step_*") if path.suffix != PARTIAL)


def newest_valid(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose files all verify, and why newer ones were passed over."""
    return newest_of(published(root), verify)


def find(
    place: str | Path, setting: str = "checkpoint", *, weights_only: bool = False
) -> Checkpoint:
    """The verified checkpoint a user means by a checkpoint folder or a run folder, or its URL.

    Of a run it is the newest good one; `passed_over` says why newer ones are not. What is behind a
    URL is in the cache then; of `weights_only` no more than these.

    Args:
        place: a path, or a URL as text.
        setting: whose value it is, for messages about a URL.
        weights_only: whether the optimizer's state is of no use to the caller.

    Raises:
        CheckpointError: there is none; names the one to take instead, if there is one.
        ValueError: the URL can't be read.
    """
    if is_url(str(place)):
        from orchestrator.record.checkpoints.fetching import RemoteRun

        run = RemoteRun(str(place), setting)
        return run.find(lambda step: run.fetch(step, weights_only=weights_only))
    path = Path(place)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; `ls outputs` shows the runs there are")
    if (path / MANIFEST).is_file() or path.parent.name == FOLDER:
        # What was fetched for its weights has no more than these.
        return _verify_named(path, weights_only and cache_entry(path) is not None)
    root = path if path.name == FOLDER else path / FOLDER
    newest, rejected = newest_valid(root)
    if newest is None:
        reason = "; ".join(rejected) or "no checkpoint has been published there"
        other = _newest_run_with_one(root.parent.resolve())
        hint = f"; the newest run that has one is {short(other)}" if other else ""
        raise CheckpointError(f"{path} holds no valid checkpoint: {reason}{hint}")
    return replace(newest, passed_over=tuple(rejected))


def find_best(place: str | Path, setting: str = "checkpoint") -> Checkpoint:
    """As `find`, for whoever wants the weights: of a run that keeps its best checkpoint, that one.

    A run that goes on needs the newest instead.

    Raises:
        CheckpointError: there is none.
        ValueError: the URL can't be read.
    """
    newest = find(place, setting, weights_only=True)
    kept = (newest.facts.get(SELECTION) or {}).get("path")
    if kept is None:
        return newest
    best = Path(os.path.normpath(newest.path / kept))
    if is_url(str(place)):
        from orchestrator.record.checkpoints.fetching import RemoteRun

        run = RemoteRun(str(place), setting)
        if (
            run.step is not None
            or best.parent != newest.path.parent
            or best.name not in run.steps()
        ):
            return newest
        found = run.fetch(best.name, weights_only=True)
    elif newest.path.resolve() == Path(place).resolve() or not best.is_dir():
        return newest
    else:
        found = verify(best)
    return replace(found, passed_over=newest.passed_over)


def _verify_named(path: Path, weights_only: bool) -> Checkpoint:
    try:
        return verify(path, weights_only)
    except CheckpointError as error:
        good, _ = newest_valid(path.parent)
        hint = f"; the newest good one beside it is {good.path}" if good else ""
        raise CheckpointError(f"{error}{hint}") from None


def _newest_run_with_one(run: Path) -> Path | None:
    """The newest other run in the same outputs folder that has published a checkpoint."""
    found = run.parents[1].glob(f"*/*/{FOLDER}/step_*/{MANIFEST}") if len(run.parents) > 1 else ()
    runs = {file.parents[2] for file in found if file.parent.suffix != PARTIAL}
    return max(runs - {run}, default=None)


def told(used: Path | None, passed_over: Sequence[str]) -> list[str]:
    """Lines for the screen: what was passed over, and what is used; none if all is well."""
    lines = [f"passed over: {reason}" for reason in passed_over]
    if lines and used is not None:
        lines.append(f"used instead: {short(used.resolve())}")
    return lines


def newest_of(
    paths: Sequence[Path], check: Callable[[Path], Checkpoint]
) -> tuple[Checkpoint | None, list[str]]:
    """The last of the folders that passes the check, and why later ones did not."""
    rejected: list[str] = []
    for path in reversed(paths):
        try:
            return check(path), rejected
        except CheckpointError as error:
            rejected.append(str(error))
    return None, rejected
