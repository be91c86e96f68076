"""Drivers that are processes of this machine: for one machine without Ray, and for tests.

Every attempt has a folder named by its submission id:

    claim     process id, time of start and boot of the shell that won the attempt; appears whole
    output    what the command printed
    exit      its exit code; appears whole
    stop      when it was told to leave, in seconds since boot

The shell that runs the command makes the claim itself, by a hard link, which only one can. So a
keeper may die at any point between deciding and starting, and another may start the same attempt
again, without two of them running. The shells lead sessions of their own and outlive the keeper.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.host.processes import is_alive, process_space, worker_processes
from cluster.queue.drivers import Driver, Node, StartRefused
from cluster.queue.job import Attempt

NOBODY = "0 0 nobody"
LINE_BYTES = 4096
ORDINARY = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
"""Python ignores some, and so would all that it starts."""
# No trap is inherited: SIGTERM ends the command as it would anywhere, and the shell notes how.
SHELL = """
trap : TERM INT
cd "$1" || exit
space=$2
shift 2
mine=claim.$$
echo "$$ $(cut -d' ' -f22 /proc/$$/stat) $space" > "$mine"
ln "$mine" claim 2>/dev/null || exit 0
rm "$mine"
folder=$PWD
{ cd "$1" && shift && "$@"; } > "$folder/output" 2>&1
code=$?
echo "$code" > "$folder/exit.$$"
mv "$folder/exit.$$" "$folder/exit"
"""


class Processes:
    """Starts, watches and stops commands on this machine; the keeper's Drivers."""

    def __init__(self, folder: Path, nodes: Sequence[Node], where: Path) -> None:
        """Nothing is started yet.

        Args:
            folder: for the attempts; on a disk with hard links.
            nodes: what this machine is taken for; several are told apart by nobody.
            where: the working directory of the commands.
        """
        self._folder = folder.absolute()
        self._nodes = tuple(nodes)
        self._where = where.absolute()
        self._space = process_space().replace(" ", "/")
        self._shells: set[int] = set()

    def nodes(self) -> Sequence[Node]:
        """This machine."""
        return self._nodes

    def start(self, attempt: Attempt) -> None:
        """Start a command unless it was started before.

        Raises:
            StartRefused: its folder or the shell cannot be had.
        """
        folder = self._folder / attempt.submission_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / "claim").exists():
                return
            given = (str(folder), self._space, str(self._where), *attempt.job.command)
            shell = os.posix_spawn(
                "/bin/sh",
                ("sh", "-c", SHELL, "sh", *given),
                {**os.environ, **attempt.environment},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)
                ],
                setsid=True,
                setsigdef=ORDINARY,
            )
        except (OSError, ValueError) as error:
            raise StartRefused(f"cannot start {attempt.job.command[0]}: {error}") from error
        self._shells.add(shell)

    def states(self, submission_ids: Sequence[str]) -> Mapping[str, Driver]:
        """What has become of these attempts; ends what a dead driver has left behind."""
        self._shells = {shell for shell in self._shells if not _reaped(shell)}
        found = {one: self._state(self._folder / one) for one in submission_ids}
        return {one: driver for one, driver in found.items() if driver is not None}

    def stop(self, submission_id: str, grace_s: float) -> None:
        """SIGTERM to the command; SIGKILL to all that is left of it `grace_s` seconds later."""
        folder = self._folder / submission_id
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "claim").exists():
            (folder / "nobody").write_text(NOBODY)
            with suppress(FileExistsError):
                (folder / "claim").hardlink_to(folder / "nobody")
        pid, begun = self._claim(folder) or (0, 0)
        if not is_alive(pid, begun) or (folder / "exit").exists():
            return
        now = time.clock_gettime(time.CLOCK_BOOTTIME)  # of all processes, and set by nobody
        note = folder / "stop"
        if not note.exists():
            for child in _children(pid):
                with suppress(psutil.NoSuchProcess):
                    child.terminate()
                    note.write_text(str(now))
        elif now - float(note.read_text() or now) > grace_s:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)

    def output(self, submission_id: str) -> Path:
        """The file with what the command has printed."""
        return self._folder / submission_id / "output"

    def _claim(self, folder: Path) -> tuple[int, int] | None:
        """The shell that runs an attempt; zeros if it is of another boot or was forbidden."""
        try:
            pid, begun, space = (folder / "claim").read_text().split()
        except FileNotFoundError:
            return None
        return (int(pid), int(begun)) if space == self._space else (0, 0)

    def _state(self, folder: Path) -> Driver | None:
        claim = self._claim(folder)
        if claim is None:
            return None
        noted = folder / "exit"
        ended = noted.exists()
        if not ended and is_alive(*claim):
            return Driver(ended=False)
        if claim[0] and _left_behind(*claim):
            return Driver(ended=False)
        code = int(noted.read_text()) if noted.exists() else None  # it may have come in between
        said = _last_line(folder / "output")
        if code is None:
            said = f"the driver was killed or its machine restarted; last output: {said or 'none'}"
        return Driver(ended=True, exit_code=code, message=said)


def _left_behind(pid: int, begun: int) -> bool:
    """Kill what a driver that is gone has started; whether there still was anything."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    left = [
        one
        for one in worker_processes(pid, begun)
        if one.pid != pid and one.is_running() and one.status() != psutil.STATUS_ZOMBIE
    ]
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    return bool(left)


def _reaped(pid: int) -> bool:
    """Whether a shell of this keeper has ended; it stays in the table of processes until asked."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []


def _last_line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LINE_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except FileNotFoundError:
        return ""
    return lines[-1].strip() if lines else ""
