"""Room on the disk that a run writes to: one that is full is waited for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

SPARE = 4 << 20
"""Bytes for the journal, logs and the like, beside a checkpoint."""


def has_room(folder: Path, needed: int) -> bool:
    """Whether so many bytes are free where a folder is, and it takes SPARE of them.

    A quota shows in no count of free bytes: it is met by asking for some.
    """
    try:
        if shutil.disk_usage(folder).free < needed:
            return False
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, SPARE)
    except OSError:
        return False
    return True


def wait_for_room(
    folder: Path, needed: int, limit_s: float | None, wait: Callable[[float], None]
) -> bool:
    """Wait until a folder has room for so many bytes; whether it has, in the end.

    Args:
        folder: on that disk.
        needed: bytes.
        limit_s: the longest wait. None: for ever.
        wait: returns after so many seconds; it may raise to end the wait.
    """
    waited, look_s = 0.0, 1.0
    while not (room := has_room(folder, needed)) and (limit_s is None or waited < limit_s):
        wait(look_s)
        waited += look_s
    return room
