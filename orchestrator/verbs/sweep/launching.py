"""How a trial is started, heard and stopped: by a `Launcher`, of which there are two kinds.

`WarmProcesses` has some processes on this machine that carry out one trial after another: what
they have imported and read stays with them, which for a short trial is most of its time. One that
dies is replaced. When this process dies they save what they are at, and end. The other kind is the
queue of a cluster, see `queued.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, Protocol

from cluster.connection.starting import ONE_HEAP
from orchestrator.config import JobConfig

WORKER = "orchestrator.verbs.sweep.worker"
LEAVE_SECONDS = 20.0


@dataclass(frozen=True)
class Order:
    """One job to carry out; it pickles."""

    trial: int
    config: JobConfig
    words: list[str]
    """What is typed for it."""
    command: list[str]
    """What was typed for the sweep."""
    folder: Path
    """Of the run, not made yet."""
    sweep: str
    """Key of the sweep."""
    reports: str | None
    """The metric at which the job waits for whether it is to go on. None: it never does."""


@dataclass(frozen=True)
class Report:
    """What a trial has measured at a step; it waits for `go_on` or `stop`."""

    trial: int
    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Ended:
    """A trial is over; its run folder tells how it went."""

    trial: int
    refused: str | None = None
    """Why it can't work; it was not started."""
    run: Path | None = None
    """Where its record is. None: where it was ordered to be."""


@dataclass(frozen=True)
class Stop:
    """To a process: have this trial save and end, whether it waits for an answer or not."""

    trial: int


@dataclass(frozen=True)
class GoOn:
    """To a process: this trial, which waits, is to go on."""

    trial: int


News = Report | Ended


class Launcher(Protocol):
    """Starts jobs elsewhere. The sweep's loop is the only caller, in one thread."""

    room: int
    """Trials at once."""
    how: str
    """They are carried out, for the screen."""

    def start(self, order: Order) -> None:
        """Start a job; there is room for it."""

    def adopt(self, trial: int, folder: Path, reports: str | None) -> bool:
        """Whether a trial that was started by an earlier process of the sweep still goes on.

        If so, what happens to it is news from now on, and what it has reported is told again.
        """

    def news(self, seconds: float) -> Sequence[News]:
        """What has happened since, after so many seconds at most; of a trial, `Ended` last."""

    def go_on(self, trial: int) -> None:
        """Let a job go on after its report."""

    def stop(self, trial: int) -> None:
        """Have a job save a checkpoint and end, after its next step; `Ended` tells when it has."""

    def close(self) -> None:
        """End everything that was started; a trial that runs is cut off, its checkpoints stay."""


@dataclass
class _Process:
    """A warm process, and what it is at."""

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]
    order: Order | None = None
    silent: bool = False
    """It was started before there was a log, and has had no order yet."""


@dataclass
class WarmProcesses:
    """So many processes, started when they are needed, or some before."""

    room: int = 1
    log: Path | None = None
    """Their output, one after another. None: there is no folder for it yet."""
    gpus: int = 0
    """Of a trial; each process has its own."""
    how: str = "in warm processes of this machine"
    _processes: list[_Process | None] = field(default_factory=list)

    def warm(self, many: int) -> None:
        """Start so many processes already: they import while the sweep is still being checked."""
        for _ in range(many):
            self._spawn().silent = True

    def start(self, order: Order) -> None:
        """Give the order to a process that waits, or to a new one."""
        idle = next((own for own in self._alive() if own.order is None), None) or self._spawn()
        if idle.silent and self.log is not None:
            self._send(idle, self.log)
        idle.order, idle.silent = order, False
        self._send(idle, order)

    def adopt(self, trial: int, folder: Path, reports: str | None) -> bool:
        """No: the processes end with who has started them."""
        return False

    def news(self, seconds: float) -> Sequence[News]:
        """What the processes say."""
        ready = wait([own.connection for own in self._alive()], seconds)
        return [
            news
            for own in list(self._alive())
            if own.connection in ready
            for news in self._heard(own)
        ]

    def go_on(self, trial: int) -> None:
        """Tell its process."""
        self._tell(trial, GoOn(trial))

    def stop(self, trial: int) -> None:
        """Tell its process."""
        self._tell(trial, Stop(trial))

    def close(self) -> None:
        """A process that is at a trial, or has had none, is ended at once, others by themselves."""
        left = list(self._alive())
        for own in left:
            own.connection.close()
            if own.order is not None or own.silent:
                own.process.kill()
        deadline = time.monotonic() + LEAVE_SECONDS
        for own in left:
            try:
                own.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                own.process.kill()
                own.process.wait()
        self._processes.clear()

    def _alive(self) -> Iterator[_Process]:
        return (own for own in self._processes if own is not None)

    def _tell(self, trial: int, what: Stop | GoOn) -> None:
        for own in self._alive():
            if own.order is not None and own.order.trial == trial:
                self._send(own, what)

    def _send(self, own: _Process, what: Order | Stop | GoOn | Path) -> None:
        with suppress(OSError):  # it has died, which `news` tells
            own.connection.send(what)

    def _heard(self, own: _Process) -> Iterator[News]:
        """A report, or the end of a trial; that of the process is that of its trial, too."""
        try:
            news: News = own.connection.recv()
        except (EOFError, OSError):
            own.connection.close()
            own.process.wait()
            self._processes[self._processes.index(own)] = None
            if own.order is not None:
                yield Ended(own.order.trial)
            return
        if isinstance(news, Ended):
            own.order = None
        yield news

    def _spawn(self) -> _Process:
        """A new process, at the place of one that has died if there is one."""
        place = self._processes.index(None) if None in self._processes else len(self._processes)
        here, there = Pipe()
        root = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        if self.log is not None:
            self.log.parent.mkdir(parents=True, exist_ok=True)
        with (self.log or Path(os.devnull)).open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", WORKER, str(there.fileno())],
                pass_fds=[there.fileno()],
                env={**os.environ, **ONE_HEAP, "PYTHONPATH": path, **self._devices(place)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,  # Ctrl-C is for the sweep, which has its trials stopped
            )
        there.close()
        new = _Process(process, here)
        self._processes[place : place + 1] = [new]
        return new

    def _devices(self, place: int) -> dict[str, str]:
        """The GPUs of a process, of those that this one sees."""
        if not self.gpus:
            return {}
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        every = seen.split(",") if seen else [str(n) for n in range(self.room * self.gpus)]
        own = every[place * self.gpus : (place + 1) * self.gpus]
        return {"CUDA_VISIBLE_DEVICES": ",".join(own)}


def room_of(jobs: Sequence[JobConfig], cpus: int, gpus: int) -> int:
    """How many of the trials there is room for at once, by the largest of these; at least 1."""
    cores = max(job.workers * job.resources.cpus_per_worker for job in jobs)
    devices = max(job.workers * job.resources.gpus_per_worker for job in jobs)
    fitting = [cpus // cores, *([gpus // devices] if devices else [])]
    return max(1, min(fitting))
