"""What a command does with the daemons of a home: start them, look at them, mend, end them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.daemons.daemon import MARK, Daemon, end, mark, marked
from cluster.daemons.home import Home, read, write
from cluster.daemons.supervisor import Standing, end_after
from cluster.host.processes import is_alive

LOOK_S = 0.1
START_S = 180.0
SUPERVISOR_S = 30.0
TAIL_LINES = 12  # of the log of what does not start
SOURCE = Path(__file__).parents[2]
"""The code that runs; ahead of all other in the daemons."""


class NotUp(Exception):
    """What was started does not answer; the message has the end of its log."""


@dataclass(frozen=True)
class Facts:
    """What is planned and what runs in a home."""

    plan: dict[str, Any]
    """As `start` was given it; empty: nothing is to run."""
    supervised: bool
    """The supervisor lives."""
    daemons: dict[str, Standing]

    @property
    def up(self) -> bool:
        """All of them answer."""
        planned = [own["name"] for own in self.plan.get("daemons", [])]
        return self.supervised and all(
            name in self.daemons and self.daemons[name].up for name in planned
        )


def look(home: Home) -> Facts:
    """What is planned and what runs, by the files of the home and its lock."""
    state = read(home.state) or {}
    standing = {name: Standing(**own) for name, own in state.get("daemons", {}).items()}
    return Facts(read(home.plan) or {}, _supervised(home), standing)


def start(home: Home, daemons: Sequence[Daemon], **facts: Any) -> None:
    """Write the plan, and start a supervisor for it. `facts` are for whoever reads the plan."""
    with home.locked("control"):
        if _supervised(home):
            return
        end(home)
        home.state.unlink(missing_ok=True)
        plain = [own.plain() for own in daemons]
        write(home.plan, {**facts, "since": time.time(), "daemons": plain})
        _supervisor(home)


def wait(home: Home, say: Callable[[str], None], limit_s: float = START_S) -> None:
    """Wait until all daemons answer.

    Raises:
        NotUp: one did not within the limit, or ends again and again.
    """
    deadline, told = time.monotonic() + limit_s, set[str]()
    while True:
        facts = look(home)
        for name, own in facts.daemons.items():
            if own.up and name not in told:
                told.add(name)
                say(f"{name} answers")
            if own.restarts >= 2 and not own.up:
                raise NotUp(_why_not(home, name, own))
        if facts.up:
            return
        if time.monotonic() > deadline:
            late = [name for name, own in facts.daemons.items() if not own.up]
            name = late[0] if late else "supervisor"
            raise NotUp(_why_not(home, name, facts.daemons.get(name, Standing())))
        time.sleep(LOOK_S)


def mend(home: Home) -> bool:
    """Start a supervisor if there is to be one and it died; returns whether that was so."""
    with home.locked("control"):
        if not home.plan.exists() or _supervised(home):
            return False
        _supervisor(home)
        return True


def stop(home: Home) -> int:
    """End the supervisor and all daemons, also those whose supervisor is gone; returns how many.

    Nothing that they have started is left; the plan is forgotten.
    """
    with home.locked("control"):
        plan, many = read(home.plan), len(marked(home))
        if plan is not None:
            if not _supervised(home):
                _supervisor(home)  # which knows how each of them ends well
            home.plan.unlink()
            own = _named(home)
            longest = sum(5.0 + daemon["goodbye_s"] for daemon in plan["daemons"])
            end_after(own["pid"], own["begun"], longest)
        end(home)
        home.state.unlink(missing_ok=True)
        return many


def _named(home: Home) -> dict[str, int]:
    """The supervisor that holds the lock, as soon as it has said who it is."""
    deadline = time.monotonic() + SUPERVISOR_S
    while True:
        own = (read(home.state) or {}).get("supervisor", {"pid": 0, "begun": 0})
        if is_alive(own["pid"], own["begun"]) or time.monotonic() > deadline:
            return dict(own)
        time.sleep(0.02)


def _supervised(home: Home) -> bool:
    if not home.folder.is_dir():
        return False
    with home.locked("supervisor", wait=False) as free:
        return not free


def _supervisor(home: Home) -> None:
    """Start one, and wait until it holds the lock.

    Raises:
        NotUp: it does not.
    """
    log = home.log("supervisor")
    log.parent.mkdir(mode=0o700, exist_ok=True)
    path = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    with log.open("ab") as said:
        subprocess.run(
            [sys.executable, "-P", "-m", "cluster.daemons", str(home.folder)],
            cwd=home.folder,
            env={**os.environ, "PYTHONPATH": path, MARK: mark(home, "supervisor")},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            check=True,
        )
    deadline = time.monotonic() + SUPERVISOR_S
    while not _supervised(home):
        if time.monotonic() > deadline:
            raise NotUp(_why_not(home, "supervisor", Standing()))
        time.sleep(0.02)


def _why_not(home: Home, name: str, own: Standing) -> str:
    log = home.log(name)
    try:
        lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    except OSError:
        lines = []
    how = f" ({own.ended})" if own.ended else ""
    return "\n".join([f"{name} does not answer{how}; the end of {log}:", *lines])
