"""Where the threads of a worker of this host are, whatever state the process is in.

The worker has told faulthandler to write all stacks to its log on a signal. That needs no GIL and
no thread that listens, so a process that sleeps, that waits for a lock or for a peer, or that holds
the GIL in native code answers it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from cluster.host.processes import is_stopped, started

SHOW_STACKS = signal.SIGUSR1
LIMIT_S = 3.0
SETTLED_S = 0.3  # nothing more was written for so long
STOPPED = "its process is stopped (SIGSTOP), so its stacks could not be written\n"


def write_stacks(pid: int, begun: int, log: Path) -> str | None:
    """Let a worker write its stacks to its log; returns what it wrote, None if it is gone.

    To be called on the worker's host.

    Args:
        pid: the worker's.
        begun: what `started` told of it.
        log: of the worker.
    """
    if started(pid) != begun:
        return None
    if is_stopped(pid, begun):
        return STOPPED
    begins = size = log.stat().st_size
    os.kill(pid, SHOW_STACKS)
    deadline, settled = time.monotonic() + LIMIT_S, 0.0
    while time.monotonic() < deadline and settled < SETTLED_S:
        time.sleep(0.1)
        now = log.stat().st_size
        settled = settled + 0.1 if now == size > begins else 0.0
        size = now
    with log.open("rb") as file:
        file.seek(begins)
        return file.read().decode(errors="replace")
