"""Other hosts become nodes of a cluster, over ssh: what is typed there by hand, typed for the user.

ssh asks nothing (BatchMode): who can't log in with a key is told so. The token goes over ssh's
standard input, so it stands on no command line and in no log, and there it is kept in a file that
only its user can read. Each host has a folder of its own below the home, as hosts may share a disk;
on each, this Python with this program must be at the same path as here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.daemons.home import VARIABLE, Home, HomeRefused

HOST = re.compile(r"(?:[A-Za-z0-9_][\w.-]*@)?[A-Za-z0-9_:][\w.:-]*")
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10")
LIMIT_S = 300.0
SAID = 300  # characters of what a host said last


def hosts_of(word: str) -> list[str]:
    """Hosts as ssh knows them, from `a,b,me@c` or from a file with one on each line.

    Raises:
        HomeRefused: one is none, comes twice, or there are none.
    """
    path = Path(word).expanduser()
    if path.is_file():
        lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
        hosts = [line for line in lines if line]
    else:
        hosts = [host.strip() for host in word.strip("[]").split(",")]
    for host in hosts:
        if not HOST.fullmatch(host):  # also what ssh would take for an option
            raise HomeRefused(f"--hosts={word}: {host!r} is no host; type --hosts A,B or a file")
        if hosts.count(host) > 1:
            raise HomeRefused(f"--hosts={word}: {host} comes twice; one host is one node")
    if not hosts:
        raise HomeRefused(f"--hosts={word}: there is no host in it; type --hosts A,B or a file")
    return hosts


def join(home: Home, hosts: Sequence[str], address: str) -> dict[str, str]:
    """Let each host join the cluster at `address`, all at once; why not, for those that did not."""
    words = ("RAY_AUTH_TOKEN_PATH=/dev/stdin", *_orchestrate("up", "--join", address))
    return _everywhere(home, hosts, words, home.ray_token.read_text())


def leave(home: Home, hosts: Sequence[str]) -> dict[str, str]:
    """End what `join` has started; why not, for those where it could not be ended."""
    return _everywhere(home, hosts, _orchestrate("down"), "")


def by_hand(home: Home, host: str, verb: str) -> str:
    """What to type here to end a host's node, or to see what is wrong with it."""
    return shlex.join([*SSH[:1], host, _remote(home, host, _orchestrate(verb))])


def _orchestrate(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "orchestrator", *words)


def _remote(home: Home, host: str, words: Sequence[str]) -> str:
    """The command line for a host's shell; the environment that it needs comes first."""
    own = home.folder / "hosts" / host.rpartition("@")[2]
    given: Mapping[str, str] = {VARIABLE: str(own)}
    if path := os.environ.get("PYTHONPATH"):
        given = {**given, "PYTHONPATH": path}
    return shlex.join(["env", *(f"{name}={value}" for name, value in given.items()), *words])


def _everywhere(
    home: Home, hosts: Sequence[str], words: Sequence[str], said: str
) -> dict[str, str]:
    """Run a command on all hosts at once; the last words of those where it failed."""
    running = {
        host: subprocess.Popen(
            [*SSH, host, _remote(home, host, words)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        for host in hosts
    }
    failed = {}
    for host, process in running.items():
        try:
            told, _ = process.communicate(said, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            told, _ = process.communicate()
            failed[host] = f"it did not answer for {LIMIT_S:.0f} s"
            continue
        if process.returncode:
            lines = [line.strip() for line in told.splitlines() if line.strip()]
            failed[host] = lines[-1][:SAID] if lines else f"ssh ended with {process.returncode}"
    return failed
