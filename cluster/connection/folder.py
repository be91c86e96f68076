"""The temporary folder of a private Ray, and who owns it.

The owner holds a lock on a file in the folder as long as it lives. A process id would not do:
containers that share /tmp have each their own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = Path("/tmp")  # not TMPDIR: a unix socket's path has at most 107 bytes
PREFIX = "orch-"
OWNER = "owner.lock"
YOUNG_S = 3600.0  # a folder without a lock may just be coming or going


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A new folder, locked while the block runs and removed after it."""
    remove_stale_folders()
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=TEMPORARY))
    coming = folder / ".coming"
    with coming.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        coming.rename(folder / OWNER)  # locked before anybody can see it
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_stale_folders() -> None:
    """Remove the folders of private Rays whose owner was killed."""
    for folder in TEMPORARY.glob(f"{PREFIX}*-*"):
        try:
            with (folder / OWNER).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except FileNotFoundError:
            if folder.is_dir() and time.time() - folder.stat().st_mtime > YOUNG_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # the owner lives, or the folder is another user's
