"""Whether the kernel killed a process because memory ran out, and at which limit.

A process is in one memory control group. The kernel counts there each process of the group that
it kills, whichever limit was reached: the group's own (a container), one above it, or the host's
memory. On a host without such groups the count is that of the whole host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NO_LIMIT = 2**60  # version 1 writes a number near 2**63 where there is none


@dataclass(frozen=True)
class MemoryGroup:
    """Where a host's kernel counts its memory kills, and against which limit."""

    counter: str
    """File of the host that holds a line `oom_kill N`."""
    kills: int
    """What the counter said when this was read."""
    limit_bytes: int | None = None
    peak: str | None = None
    """File that holds the most bytes the group has used."""


def memory_group(root: Path = Path("/")) -> MemoryGroup | None:
    """The memory control group of this process; None where the kernel tells of none.

    Args:
        root: where /proc and /sys are.
    """
    mount, proc = root / "sys/fs/cgroup", root / "proc"
    for folder, counter, limit, peak in _candidates(mount, _text(proc / "self/cgroup")):
        kills = _count(folder / counter)
        if kills is not None:
            limits = [_bytes(above / limit) for above in _up_to(folder, mount)]
            least = min((found for found in limits if found is not None), default=None)
            return MemoryGroup(str(folder / counter), kills, least, str(folder / peak))
    kills = _count(proc / "vmstat")
    return None if kills is None else MemoryGroup(str(proc / "vmstat"), kills)


def kills_now(group: MemoryGroup | None) -> int:
    """What the group's counter says now; what it said before if it can no longer be read."""
    if group is None:
        return 0
    now = _count(Path(group.counter))
    return group.kills if now is None else now


def kill_report(group: MemoryGroup, kills_before: int) -> str | None:
    """How the memory stood, in words, if the kernel has killed since `kills_before` was read.

    To be called on the host of the process that died.
    """
    if kills_now(group) <= kills_before:
        return None
    told = "out of memory"
    if group.limit_bytes is not None:
        told += f", limit {_mebibytes(group.limit_bytes)}"
    used = _bytes(Path(group.peak)) if group.peak else None
    if used is not None:
        told += f", used {_mebibytes(used)}"
    return told


def _candidates(mount: Path, groups: str) -> list[tuple[Path, str, str, str]]:
    """Folders where this process's group may be, with the names of its files.

    Inside a container the mount often begins at the container's own group, while /proc may still
    tell the path as the host sees it; so the mount itself comes after the path below it.
    """
    found = []
    names_1 = ("memory.oom_control", "memory.limit_in_bytes", "memory.max_usage_in_bytes")
    names_2 = ("memory.events", "memory.max", "memory.peak")
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            for folder in (mount / "memory" / path.lstrip("/"), mount / "memory"):
                found.append((folder, *names_1))
        elif not controllers:
            for folder in (mount / path.lstrip("/"), mount):
                found.append((folder, *names_2))
    return found


def _up_to(folder: Path, mount: Path) -> list[Path]:
    """The folder and those above it, below the mount's parent."""
    return [folder, *(above for above in folder.parents if above.is_relative_to(mount))]


def _count(file: Path) -> int | None:
    found = re.search(r"^oom_kill (\d+)$", _text(file), re.MULTILINE)
    return int(found[1]) if found else None


def _bytes(file: Path) -> int | None:
    text = _text(file).strip()
    return int(text) if text.isdigit() and int(text) < NO_LIMIT else None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""


def _mebibytes(amount: int) -> str:
    return f"{amount / 2**20:.0f} MiB"
