"""`orchestrate cache [prune]`: what is kept of data between runs, and room to be had.

Prepared text, examples and downloads are made once and found again by every later run. `prune`
shows what no run has used for --days, and removes it; what is gone is made anew when it is needed.
What a running job reads stays, however old, and so do weights that adapters stand beside.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from data.files import cache_root, is_in_use
from data.messages import size
from orchestrator.record.checkpoints.retention import NEEDED
from orchestrator.terminal import say

DAYS = 30
DAY_SECONDS = 86400
PLANS = "row plans"
KINDS = {
    "prepared text": "data/sets",
    PLANS: "data/plans",
    "unfinished work": "data/work",
    "examples": "examples",
    "downloads": "remote",
    "fetched runs": "runs",
}


@dataclass(frozen=True)
class Entry:
    """A folder of the cache that goes or stays as a whole."""

    kind: str
    path: Path
    bytes: int
    used: float
    """Time of the last use, seconds since 1970: every run marks what it reads."""

    @property
    def days(self) -> float:
        """Since the last use."""
        return (time.time() - self.used) / DAY_SECONDS


def main(argv: Sequence[str]) -> int:
    """List or prune; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    if options.days < 1:
        raise ValueError(
            f"--days={options.days} must be at least 1: what was used today may be in the making; "
            "try --days=1"
        )
    root = cache_root()
    found = sorted(entries(root), key=lambda entry: entry.used)
    if options.action == "list":
        show(found)
        say(f"{_total(found)} in {root}")
        return 0
    old = [entry for entry in found if entry.days > options.days]
    kept = [entry for entry in old if is_needed(entry.path)]
    unneeded = [entry for entry in old if entry not in kept]
    going = unused(unneeded, found)
    show(going)
    say(f"{len(going)} of {len(found)} entries, {_total(going)} of {_total(found)} in {root}")
    if len(going) < len(unneeded):
        say(f"{len(unneeded) - len(going)} more are as old, but a running job reads them")
    for entry in kept:
        say(
            f"{entry.path} ({size(entry.bytes)}) is as old, but runs with model.adapter stand "
            "beside its weights and can't be used without; delete it yourself if those are gone"
        )
    if not going:
        say(f"nothing was left unused for {options.days} days")
        return 0
    if not options.yes and not _agreed():
        say("nothing was removed; --yes removes it")
        return 0
    removed = sum(entry.bytes for entry in going if _remove(entry.path))
    say(f"removed {size(removed)}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate cache",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument(
        "action", nargs="?", choices=["list", "prune"], default="list", help="[%(default)s]"
    )
    new.add_argument(
        "--days",
        type=int,
        default=DAYS,
        metavar="N",
        help="prune: unused for so long [%(default)s]",
    )
    new.add_argument("--yes", action="store_true", help="prune: without asking")
    return new


def entries(root: Path) -> Iterator[Entry]:
    """What the cache holds."""
    for kind, folder in KINDS.items():
        for path in (root / folder).glob("*/"):
            inside = [file.stat() for file in path.rglob("*")]
            last = max([path.stat().st_mtime, *(file.st_mtime for file in inside)])
            yield Entry(kind, path, sum(file.st_size for file in inside), last)


def unused(old: Sequence[Entry], every: Sequence[Entry]) -> list[Entry]:
    """Those that no running job reads; it does not say which row plans, so none of these goes."""
    running = {entry.path for entry in every if is_in_use(entry.path)}
    return [
        entry
        for entry in old
        if entry.path not in running and not (running and entry.kind == PLANS)
    ]


def is_needed(path: Path) -> bool:
    """Whether an entry has a checkpoint beside which what an adapter has learned stands."""
    return any(path.rglob(NEEDED))


def show(listed: Sequence[Entry]) -> None:
    """A line for each, the longest unused first."""
    for entry in listed:
        say(f"{entry.kind:16} {size(entry.bytes):>8}  {entry.days:4.0f} days  {entry.path.name}")


def _total(some: Sequence[Entry]) -> str:
    return size(sum(entry.bytes for entry in some))


def _agreed() -> bool:
    if not sys.stdin.isatty():
        return False
    return input("remove it? [y/N] ").strip().lower() in ("y", "yes")


def _remove(path: Path) -> bool:
    """Take an entry away, at once for whoever looks for it. False if a job began to need it."""
    if is_in_use(path) or is_needed(path):
        return False
    away = path.with_name(f"{path.name}.pruned")
    with suppress(OSError):
        path.rename(away)
        shutil.rmtree(away)
        return True
    return False
