"""Processes of this host: a worker with all that it started, and their end."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

REAP_S = 2.0  # a process in the middle of a write takes a moment to die


def end_processes(processes: list[psutil.Process], grace_s: float = 2.0) -> None:
    """SIGKILL those of the processes that are still here after `grace_s` seconds."""
    _, alive = psutil.wait_procs(processes, timeout=grace_s)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=REAP_S)


def started(pid: int) -> int | None:
    """When a process of this host began, in clock ticks since boot; None if it is gone.

    Together with the pid it names a process for good. Unlike the date of creation it does not move
    when somebody sets the clock.
    """
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def is_stopped(pid: int, begun: int) -> bool:
    """Whether a process of this host was stopped by a signal; a debugger's hold is none.

    Args:
        pid: of the process.
        begun: what `started` told of it.
    """
    return _state(pid, begun) == "T"


def is_alive(pid: int, begun: int) -> bool:
    """Whether a process of this host goes on; one that only waits for its parent's notice does not.

    Args:
        pid: of the process.
        begun: what `started` told of it.
    """
    return _state(pid, begun) not in (None, "Z", "X")


def _state(pid: int, begun: int) -> str | None:
    """The letter by which the kernel tells what a process does; None: it is gone."""
    if started(pid) != begun:
        return None
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def process_space() -> str:
    """Names the set in which a pid of this process is unique: a kernel's boot and a pid namespace.

    The name of the host would not do: containers with --network=host all have that of their host,
    and so may machines that were made from one image.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def worker_processes(pid: int, begun: int) -> list[psutil.Process]:
    """A worker of this host and all that it started, also if the worker itself is dead by now.

    A worker leads a process group, which its children share and keep when they lose it, and no
    newcomer gets the number of a group that has members.

    Args:
        pid: the worker's.
        begun: what `started` told of it.
    """
    found: list[psutil.Process] = []
    alive = started(pid)
    if alive is not None and alive != begun:
        return []
    with suppress(psutil.NoSuchProcess):
        worker = psutil.Process(pid)
        found = [worker, *worker.children(recursive=True)]
    known = {process.pid for process in found}
    for process in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if process.pid not in known and os.getpgid(process.pid) == pid:
                found.append(process)
    return found
