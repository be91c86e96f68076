"""Fencing: of all processes that take a run for theirs, only the last one writes.

A driver that was thought dead may come back: frozen, cut off from the network, started twice. Each
attempt takes the next number in `fence/` of the run folder, which makes every earlier one void. No
clock and no lock has a say, for both can be wrong on a shared file system.

1. `take` makes the file of the next number; of two takers the file system lets one have it. Then it
   moves away what earlier attempts were writing aside.
2. Whoever is about to write asks `check` first; a journal does before every line.
3. A checkpoint is written in a folder that was made before a check and is renamed after another.
   An attempt that is frozen right between check and rename finds its folder moved away: what is
   published afterwards is the last taker's alone.

Martin Kleppmann, How to do distributed locking, 2016: a token that grows with every owner, checked
where the writing is done.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import fsync_folder, naming

FOLDER = "fence"
"""In a run folder: a file for every attempt, named by its number."""
PARTIAL = ".partial"
"""What is written aside ends with it."""
DIGITS = 6


class Fenced(RuntimeError):
    """Another attempt has taken the run over; this one must not write any more."""


@dataclass(frozen=True)
class Fence:
    """The right of one attempt to write to its run; it pickles, and every rank has it."""

    folder: Path
    """The run folder."""
    number: int
    """Grows with every taker; the highest holds."""
    attempt: int

    def check(self) -> None:
        """Raise Fenced if a later attempt has taken the run."""
        if not _file(self.folder, self.number + 1).exists():
            return
        by = _owner(self.folder)
        raise Fenced(
            f"{self.folder} was taken over by attempt {by.get('attempt')}, process "
            f"{by.get('pid')} on {by.get('host')}; attempt {self.attempt}, process {os.getpid()} "
            f"on {os.uname().nodename}, writes no more"
        )

    def staged(self, final: Path) -> Path:
        """Where this attempt, and no other, writes what is to become `final`."""
        return final.with_name(f"{final.name}.{self.number:0{DIGITS}}{PARTIAL}")

    def clear(self) -> None:
        """Remove what this attempt and those before have left half-written."""
        for path in _staged_up_to(self.number, self.folder):
            # In one go: who still writes there can't publish it, even if it can't be deleted yet.
            away = path.with_name(f"{path.stem}-void{PARTIAL}")
            path.rename(away)
            shutil.rmtree(away, ignore_errors=True)

    @property
    def record(self) -> dict[str, int]:
        """What a manifest says of its writer."""
        return {"attempt": self.attempt, "fence": self.number}


def take(folder: Path, attempt: int) -> Fence:
    """Make this process the one that writes to a run. The driver calls it at each attempt's start.

    When it has returned, nothing of an earlier attempt can be published any more.

    Args:
        folder: the run folder.
        attempt: number of the attempt, for messages; of two takers with the same one the later
            holds.

    Raises:
        OSError: naming the path; the run folder can't be written.
    """
    with naming(folder / FOLDER):
        (folder / FOLDER).mkdir(exist_ok=True)
        fence = _take_next(folder, attempt)
        fsync_folder(folder / FOLDER)
    fence.clear()
    return fence


def _take_next(folder: Path, attempt: int) -> Fence:
    about = {"attempt": attempt, "pid": os.getpid(), "host": os.uname().nodename}
    number = max(_taken(folder), default=0)
    while True:
        number += 1
        try:
            file = _file(folder, number).open("xb", buffering=0)
        except FileExistsError:  # somebody was quicker
            continue
        with file, suppress(OSError):  # on a full disk the name alone must do, and does
            file.write(json.dumps(about).encode())
            os.fsync(file.fileno())
        return Fence(folder, number, attempt)


def _file(folder: Path, number: int) -> Path:
    return folder / FOLDER / f"{number:0{DIGITS}}.json"


def _taken(folder: Path) -> Iterator[int]:
    return (int(file.stem) for file in (folder / FOLDER).glob("*.json") if file.stem.isdigit())


def _owner(folder: Path) -> dict[str, Any]:
    """What the last taker says of itself; nothing if it could not write it, or not yet."""
    try:
        about = json.loads(_file(folder, max(_taken(folder))).read_bytes())
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _staged_up_to(number: int, folder: Path) -> Iterator[Path]:
    """What attempts up to `number` write aside, in any folder of the run."""
    for path in folder.glob(f"*/*{PARTIAL}"):
        by = Path(path.stem).suffix.removeprefix(".")
        if by.isdigit() and int(by) <= number:
            yield path
