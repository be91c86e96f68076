"""Which checkpoints of a run stay on the disk."""

import fcntl
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from orchestrator.record.checkpoints.finding import check_sizes, published
from orchestrator.record.checkpoints.manifest import (
    MANIFEST,
    PARTIAL,
    REPLACED,
    Checkpoint,
    CheckpointError,
    read,
)
from orchestrator.record.fencing import Fence

EXPIRED = "expired"
"""In a checkpoint that was to be deleted while somebody held it."""
NEEDED = "needed"
"""In a checkpoint beside which what another run has learned stands."""


class Retention:
    """Keeps the newest checkpoints of a run, its best, and some for ever; rank 0 holds one.

    A checkpoint that this process wrote or verified counts without another look. What it only
    found, after a resume, is looked at once, its sizes and its manifest: the one just written is
    known to be good, so the last good one is never at stake.

    Deleting waits for the disk, and nobody for it: it goes on in a thread, until the next `wait`.
    """

    def __init__(
        self, root: Path, keep: int, fence: Fence | None = None, keep_every: int | None = None
    ) -> None:
        """Nothing is known yet of what lies in `root`, of which `keep` are to stay.

        With a `fence`, nothing is deleted any more once another attempt has taken the run. What is
        of a multiple of `keep_every` steps stays for ever.
        """
        self._root, self._fence, self._keep_every = root, fence, keep_every
        self._keep = keep
        self._sound: set[Path] = set()
        self._thread, self._deleted = ThreadPoolExecutor(1, "retention"), list[Future[None]]()
        self.best: Path | None = None
        """Stays, however old it is."""

    def trust(self, checkpoint: Checkpoint) -> None:
        """Count a checkpoint that was verified."""
        self._sound.add(checkpoint.path)

    def after(self, written: Checkpoint) -> None:
        """Begin to delete what is older than the newest `keep` sound ones, with `written` as one.

        Raises Fenced, with nothing deleted, if another attempt has taken the run.
        """
        self.wait()
        self._sound.add(written.path)
        kept = 0
        for path in reversed(published(self._root)):
            if kept >= self._keep and not self._stays(path, written):
                if self._fence is not None:
                    self._fence.check()
                self._deleted.append(self._thread.submit(_delete, path))
                self._sound.discard(path)
            elif self._is_sound(path):
                kept += 1

    def wait(self) -> None:
        """Return when all is deleted that was to be. A new checkpoint then has the room for it."""
        while self._deleted:
            self._deleted.pop().result()

    def _stays(self, path: Path, written: Checkpoint) -> bool:
        """Whether a checkpoint stays that is not among the newest."""
        every, step = self._keep_every, path.name.removeprefix("step_")
        for_ever = every is not None and step.isdigit() and int(step) % every == 0
        return for_ever or path in (written.path, self.best) or (path / NEEDED).exists()

    def _is_sound(self, path: Path) -> bool:
        if path not in self._sound:
            try:
                check_sizes(read(path))
            except CheckpointError:
                return False
            self._sound.add(path)
        return True


def hold(path: Path) -> int:
    """Keep the checkpoint of a run that goes on from being deleted by its retention.

    It holds until the descriptor that is returned is closed, at the latest when this process ends.

    Raises:
        CheckpointError: it is being deleted, or gone.
    """
    try:
        descriptor = os.open(path / MANIFEST, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CheckpointError(f"{path / MANIFEST} can't be read: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CheckpointError(f"{path} is being deleted by its run; take a newer one") from None
    except OSError:  # a file system without locks, where nobody can hold anything
        pass
    return descriptor


def release(path: Path, held: int) -> None:
    """Hold a checkpoint no more, which goes at once if it was to go meanwhile.

    For the driver of the run itself: of another run's nothing is deleted.
    """
    os.close(held)
    if (path / EXPIRED).exists():
        _delete(path)


def restore_replaced(root: Path) -> None:
    """Give back its name to a checkpoint whose writer was gone between two renames."""
    for folder in root.glob(f"*{REPLACED}"):
        final = folder.with_name(folder.name.removesuffix(REPLACED))
        if not final.exists():
            folder.rename(final)


def remove_partial(root: Path) -> None:
    """Remove what writers that are gone have left half written in a run's `root`."""
    restore_replaced(root)
    for folder in root.glob(f"*{PARTIAL}"):
        shutil.rmtree(folder, ignore_errors=True)


def _delete(path: Path) -> None:
    """Delete a checkpoint unless somebody holds it.

    The manifest goes first, so that a half-deleted folder is not taken for a checkpoint. What is
    held, or kept by the file system, is tried again after the next save; training goes on.
    """
    with suppress(OSError):
        try:
            if (path / MANIFEST).exists():
                with (path / MANIFEST).open("rb") as file:
                    _lock(file)
                    (path / MANIFEST).unlink()
            shutil.rmtree(path)
        except BlockingIOError:
            (path / EXPIRED).touch()


def _lock(file: BinaryIO) -> None:
    """Raise BlockingIOError if somebody holds the file; without locks nobody can."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass
