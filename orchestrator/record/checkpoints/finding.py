"""Finding the checkpoint to go on from: the newest that its files, hashed anew, bear out."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data.files import sha256_file
from orchestrator.record.checkpoints.manifest import (
    MANIFEST,
    PARTIAL,
    Checkpoint,
    CheckpointError,
    read,
)


def check_sizes(checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for a file that is missing or of another size; reads no content."""
    for name, expected in checkpoint.files.items():
        file = checkpoint.path / name
        try:
            found = file.stat().st_size
        except OSError:
            raise CheckpointError(f"{file} is missing; use an older checkpoint") from None
        if found != expected.bytes:
            raise CheckpointError(
                f"{file} is damaged: {found} bytes, the manifest says {expected.bytes}; "
                "use an older checkpoint"
            )


def check_hashes(checkpoint: Checkpoint, share: int = 0, shares: int = 1) -> None:
    """Hash the files, or one of several shares of about the same size.

    Raises:
        CheckpointError: a file differs from what the manifest says, or can't be read.
    """
    for name in _files_of(checkpoint, share, shares):
        file, expected = checkpoint.path / name, checkpoint.files[name].sha256
        try:
            found = sha256_file(file)
        except OSError as error:
            raise CheckpointError(
                f"{file} can't be read: {error.strerror}; use an older checkpoint"
            ) from None
        if found != expected:
            raise CheckpointError(
                f"{file} is damaged: its sha256 is {found[:12]}, the manifest says "
                f"{expected[:12]}; use an older checkpoint"
            )


def _files_of(checkpoint: Checkpoint, share: int, shares: int) -> list[str]:
    """Largest first, each file goes to the share that has least."""
    loads, mine = [0] * shares, []
    for name, file in sorted(checkpoint.files.items(), key=lambda item: (-item[1].bytes, item[0])):
        least = loads.index(min(loads))
        loads[least] += file.bytes
        if least == share:
            mine.append(name)
    return mine


def verify(path: Path) -> Checkpoint:
    """The checkpoint in this folder, all of its files verified. Raises CheckpointError."""
    checkpoint = read_complete(path)
    check_hashes(checkpoint)
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


def find(path: Path) -> Checkpoint:
    """The verified checkpoint a user means by a checkpoint folder or a run folder."""
    if (path / MANIFEST).is_file():
        return verify(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; `ls outputs` shows the runs there are")
    newest, rejected = newest_valid(path if path.name == "checkpoints" else path / "checkpoints")
    if newest is None:
        reason = "; ".join(rejected) or "no checkpoint has been published there"
        raise CheckpointError(f"{path} holds no valid checkpoint: {reason}")
    return newest


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
