"""The process that watches the daemons of a home: `python -m cluster.daemons FOLDER`.

1. It takes the lock of the home, so there is one at a time; the lock goes when the process does.
2. It takes over the daemons that an earlier supervisor has started and that still live.
3. Twice a second it looks: what has died, or has not answered for long, is ended with all that it
   had started, and started again, later each time that this follows soon.
4. On SIGTERM it ends all of them, the last first.

What it knows is in state.json, whole at every moment. Killed, it takes nothing with it: the next
command of the user finds the lock free, and starts another.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.daemons.daemon import Daemon, end
from cluster.daemons.home import Home, read, write
from cluster.host.processes import is_alive, started

LOOK_S = 0.5
PROBE_EVERY_S = 2.0  # of one that is known to answer
HUNG_S = 30.0  # one that has answered, and then not for so long, is started again
START_S = 120.0  # and one that has not answered once
FIRST_DELAY_S, MOST_DELAY_S = 0.5, 30.0  # before it is started again, if it had lived ...
SETTLED_S = 60.0  # ... shorter than this, else at once

log = logging.getLogger("supervisor")


@dataclass
class Standing:
    """One daemon as it is now; in state.json."""

    pid: int = 0
    begun: int = 0
    """Clock ticks, see `cluster.host.processes.started`; with the pid it names a process."""
    since: float = 0.0
    """Unix time at which it was started."""
    up: bool = False
    """It has answered, and was not found silent since."""
    restarts: int = 0
    ended: str = ""
    """How the one before ended. Empty: there was none."""


class Watched:
    """A daemon, and what has to be done about it."""

    def __init__(self, home: Home, daemon: Daemon, earlier: dict[str, Any] | None) -> None:
        """Take over the process that `earlier` tells of, if it lives."""
        self.daemon, self._home = daemon, home
        self.standing = Standing(**earlier) if earlier else Standing()
        self._process: subprocess.Popen[bytes] | None = None
        self._due = 0.0  # by time.monotonic, as are all below
        self._delay = FIRST_DELAY_S
        self._begun = self._heard = self._probed = time.monotonic()
        if self.standing.pid and not self._lives():
            self._buried("it died while nobody watched")

    def look(self) -> None:
        """Start it, or see how it does."""
        now = time.monotonic()
        if not self.standing.pid:
            if now >= self._due:
                self._start()
        elif not self._lives():
            code = self._process.poll() if self._process is not None else None
            self._buried("it ended" if code is None else _ending(code))
        elif not self.standing.up or now - self._probed >= PROBE_EVERY_S:
            self._probed = now
            if self.daemon.answers():
                self.standing.up, self._heard = True, time.monotonic()
            elif now - self._heard > (HUNG_S if self.standing.up else START_S):
                self._end(0.0)
                self._buried(f"it did not answer for {now - self._heard:.0f} s")

    def close(self) -> None:
        """End it, and all that it has started."""
        self._end(self.daemon.goodbye_s)

    def _start(self) -> None:
        end(self._home, self.daemon.name)  # of the one before, whose place and ports it takes
        self._process = self.daemon.start(self._home)
        self._begun = self._heard = time.monotonic()
        own = self.standing
        own.pid, own.begun = self._process.pid, started(self._process.pid) or 0
        own.since, own.up = time.time(), False
        log.info("%s: process %d", self.daemon.name, own.pid)

    def _lives(self) -> bool:
        if self._process is not None:
            return self._process.poll() is None
        return is_alive(self.standing.pid, self.standing.begun)

    def _buried(self, how: str) -> None:
        own = self.standing
        log.warning("%s: %s; it is started again", self.daemon.name, how)
        settled = time.monotonic() - self._begun > SETTLED_S
        self._delay = FIRST_DELAY_S if settled else self._delay
        self._due = time.monotonic() + self._delay
        self._delay = min(2 * self._delay, MOST_DELAY_S)
        own.ended = f"{how} at {time.strftime('%H:%M:%S')}"
        own.pid, own.up, own.restarts, self._process = 0, False, own.restarts + 1, None

    def _end(self, grace_s: float) -> None:
        if self._lives():
            end_after(self.standing.pid, self.standing.begun, grace_s)
        end(self._home, self.daemon.name, grace_s=0.5 if grace_s else 0.0)


def end_after(pid: int, begun: int, grace_s: float) -> None:
    """SIGTERM to a process, and wait for its end, at most so long."""
    deadline = time.monotonic() + grace_s
    if is_alive(pid, begun):
        os.kill(pid, signal.SIGTERM)
    while is_alive(pid, begun) and time.monotonic() < deadline:
        time.sleep(0.05)


def supervise(home: Home, leave: threading.Event) -> None:
    """Watch the daemons of the home until it is time to leave; then end them."""
    earlier = read(home.state) or {}
    known = earlier.get("daemons", {})
    plan = [Daemon.of(plain) for plain in read(home.plan)["daemons"]]
    watched = [Watched(home, own, known.get(own.name)) for own in plan]
    said: dict[str, Any] = {}
    while not leave.is_set():
        for own in watched:
            own.look()
        now = {
            "supervisor": {"pid": os.getpid(), "begun": started(os.getpid())},
            "daemons": {own.daemon.name: asdict(own.standing) for own in watched},
        }
        if now != said:
            write(home.state, now)
            said = now
        leave.wait(LOOK_S)
    for own in reversed(watched):
        own.close()
    home.state.unlink(missing_ok=True)


def main(arguments: Sequence[str]) -> int:
    """Supervise, as a child of nobody; returns the exit code, 1 if another one does so already."""
    if os.fork():
        return 0
    os.setsid()
    home = Home(Path(arguments[0]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    leave = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: leave.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with home.locked("supervisor", wait=False) as ours:
        if not ours:
            return 1
        supervise(home, leave)
    return 0


def _ending(code: int) -> str:
    if code >= 0:
        return f"it ended with code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
