"""Whether what a job writes fits where it goes."""

import os
import shutil
import tempfile
from pathlib import Path

from data.messages import size
from orchestrator.record.runfolder import LATEST


class DiskTooSmall(ValueError):
    """The checkpoints of the job do not fit where they go."""


def check_outputs(folder: Path) -> int:
    """Free bytes where run folders go. Raises ValueError unless they can be created there."""
    latest = folder / LATEST
    if latest.exists() and not latest.is_symlink():
        raise ValueError(
            f"outputs={folder}: {latest} is no link to the newest run, maybe since links were "
            "followed in copying; remove or rename it"
        )
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"outputs={folder} is {os.fsencode(folder.absolute())!r}, which is no UTF-8, and no "
            "record can hold it; rename it, or try outputs=ANOTHER_FOLDER"
        ) from None
    folders = [folder.absolute(), *folder.absolute().parents]
    existing = next(path for path in folders if path.exists())
    if not existing.is_dir():
        raise ValueError(f"outputs={folder}: {existing} is a file; try outputs=ANOTHER_FOLDER")
    try:
        with tempfile.TemporaryFile(dir=existing):  # permissions alone tell root too little
            pass
    except OSError as error:
        raise ValueError(
            f"outputs={folder}: {existing} can't be written to ({error.strerror}); "
            "try outputs=FOLDER"
        ) from None
    return shutil.disk_usage(existing).free


def check_disk(outputs: str, *, each: int, most: int, kept: int, free: int) -> None:
    """Raise DiskTooSmall unless the checkpoints fit where run folders go.

    Args:
        outputs: that folder.
        each: bytes of one checkpoint.
        most: how many of them are on the disk at once.
        kept: how many stay.
        free: bytes of the disk.
    """
    needed = most * each
    if needed <= free:
        return
    fewer = "stage.checkpoints_kept=1 or " if kept > 1 else ""
    raise DiskTooSmall(
        f"outputs={outputs} needs {size(needed)} for checkpoints, {size(free)} are "
        f"free: {size(each)} each, at most {most} at once with stage.checkpoints_kept={kept}; "
        f"try {fewer}outputs=FOLDER on another disk"
    )
