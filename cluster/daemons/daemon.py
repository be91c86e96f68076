"""One process that stays: its command, its environment, and how one sees that it answers."""

from __future__ import annotations

import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from typing import Any

import psutil

from cluster.daemons.home import Home
from cluster.host.processes import REAP_S

MARK = "ORCHESTRATE_DAEMON"
"""Variable that a daemon and all that it starts have: the folder of its home, and its name."""
PROBE_S = 3.0
LOOK_S = 0.1


@dataclass(frozen=True)
class Daemon:
    """What is to run."""

    name: str
    command: tuple[str, ...]
    url: str
    """Answers, with whatever status, when the daemon is up."""
    environment: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    """Variables of the one who starts it that it must not have."""
    goodbye_s: float = 10.0
    """How long it may take to end when it is told to."""

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Daemon:
        """From JSON."""
        return cls(
            **{**plain, "command": tuple(plain["command"]), "without": tuple(plain["without"])}
        )

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def start(self, home: Home) -> subprocess.Popen[bytes]:
        """Start it in a session of its own, so that no terminal and no group's signal ends it."""
        log = home.log(self.name)
        log.parent.mkdir(mode=0o700, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if k not in self.without}
        with log.open("ab") as said:
            said.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} starting\n".encode())
            said.flush()
            return subprocess.Popen(
                self.command,
                cwd=home.folder,  # no package of ours is there, nor one of the user's
                env={**inherited, **self.environment, MARK: mark(home, self.name)},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    def answers(self) -> bool:
        """Whether somebody answers HTTP at its address."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            opener.open(self.url, timeout=PROBE_S).close()
        except urllib.error.HTTPError:
            return True
        except (OSError, HTTPException):
            return False
        return True


def mark(home: Home, name: str = "") -> str:
    """The value of MARK for a daemon; without a name, how those of all begin."""
    return f"{home.folder}:{name}"


def marked(home: Home, name: str = "") -> list[psutil.Process]:
    """All processes of a daemon, or of all of them, also those whose parent is gone."""
    wanted, found = mark(home, name), []
    for process in psutil.process_iter():
        try:
            own = process.environ().get(MARK, "")
        except psutil.Error:
            continue
        if (own == wanted) if name else own.startswith(wanted):
            found.append(process)
    return [process for process in found if process.pid != os.getpid()]


def end(home: Home, name: str = "", grace_s: float = 0.5) -> None:
    """End what is left of a daemon, or of all: what does not go by itself is killed.

    Zombies count as gone: nobody may be there who would reap the orphans of a daemon.
    """
    begun = time.monotonic()
    while left := marked(home, name):
        late = time.monotonic() - begun - grace_s
        if late > REAP_S:
            return
        for process in left if late >= 0 else ():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(LOOK_S)
