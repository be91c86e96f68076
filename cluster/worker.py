"""One worker of a gang, as seen from inside its own process.

1. Ray starts the process; nothing heavy is imported yet.
2. `describe` tells the driver where it is; the driver decides on ranks.
3. `start` sets the log file and the environment that torch.distributed reads.
4. `run` carries out the target in one thread, while `poll` and `stop` answer in others.
5. If another worker has died, `start` and `run` may come again, in the same process.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.heart import Heart, Progress
from cluster.host import network
from cluster.host.environment import environment
from cluster.host.launched import OF_ELASTIC, OF_MPI, left_over
from cluster.host.memory import MemoryGroup, kills_now, memory_group
from cluster.host.processes import process_space, started
from cluster.host.stacks import SHOW_STACKS

Record = dict[str, Any]


@dataclass(frozen=True)
class Channel:
    """What a worker function gets besides its payload: who it is, and its line to the driver."""

    rank: int
    world_size: int
    send: Callable[[Record], None]
    """Hand a record to the driver; cheap, never blocks."""
    should_stop: Callable[[], bool]
    """True once the driver has asked the gang to finish by itself."""
    heart: Heart = field(default_factory=Heart)
    """Where the function says how far it has come; the driver tells a hang by it."""


Target = Callable[[Any, Channel], Any]


@dataclass(frozen=True)
class Outcome:
    """How the target ended. `records` are those no poll has taken; `error` is None if it returned.

    The error is told in words: an exception object may not survive pickling, or may need torch
    to be read in the driver.
    """

    records: list[Record]
    result: Any = None
    error_type: str | None = None
    message: str = ""
    traceback: str = ""
    failed_at: float = 0.0


@dataclass(frozen=True)
class Pulse:
    """What a worker says when it is polled."""

    records: list[Record]
    """Sent since the last poll, in order."""
    terminated: bool
    """Whether this process got SIGTERM: its host is wanted for something else."""
    memory_kills: int
    """What the kernel has counted in this process's memory group."""
    progress: Progress
    """How far the target has come."""


class Attempt:
    """What one `run` has said and is told; a thread left over from an earlier one holds its own."""

    def __init__(self) -> None:
        """Nothing is said yet."""
        self.stop = threading.Event()
        self.heart = Heart()
        self._records: list[Record] = []
        self._lock = threading.Lock()

    def send(self, record: Record) -> None:
        """Keep a record until the next poll."""
        with self._lock:
            self._records.append(record)

    def take(self) -> list[Record]:
        """The records since this was last called."""
        with self._lock:
            taken, self._records = self._records, []
        return taken


class Worker:
    """The Ray actor. Its methods run in a pool of threads (`max_concurrency`)."""

    def __init__(self) -> None:
        """Nothing is set up yet; the process exits if its raylet goes away."""
        self._attempt, self._terminated = Attempt(), threading.Event()
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)  # so that whatever it starts can be found when it is dead
        self._memory: MemoryGroup | None = memory_group()
        self._world = ExitStack()  # environment variables that `start` has set
        self._ip = network.host_ip()
        self._gloo_interface = network.gloo_interface(self._ip)
        # Ray's own handler would end the process only when the target has returned, and no Python
        # handler runs while the main thread waits in Ray's C++: a pipe gets the signal at once.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        self._signals, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signals, daemon=True, name="signal-watch").start()
        threading.Thread(target=_exit_with_parent, daemon=True, name="parent-watch").start()

    def describe(self) -> Record:
        """Where this worker is, and what the driver must know to end it or to tell how it ended.

        host, ip and node; pid, when it started (ticks since boot) and the space of the pid; the
        GPUs that Ray assigned; the interface that gloo must be told of, or None; the memory group,
        or None.
        """
        import ray

        context = ray.get_runtime_context()
        return {
            "host": os.uname().nodename,
            "ip": self._ip,
            "node": context.get_node_id(),
            "pid": os.getpid(),
            "started": started(os.getpid()),
            "space": process_space(),
            "gpus": context.get_accelerator_ids().get("GPU", []),
            "gloo_interface": self._gloo_interface,
            "memory": self._memory,
        }

    def carry_out(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """An errand on this worker's host."""
        return function(*arguments)

    def start(self, rank: int, log: Path, variables: dict[str, str]) -> int:
        """Become `rank`: output goes to `log`, and torch, not imported yet, will see its world.

        Returns the size that the log had before, in bytes.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.fstat(file).st_size
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)
        sys.stdout = open(1, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, encoding="utf-8", closefd=False)  # noqa: SIM115
        faulthandler.enable(file=sys.stderr)
        faulthandler.register(SHOW_STACKS, file=sys.stderr)
        self._world.close()  # what an earlier world has set is as it was before
        others = left_over(*OF_MPI, *OF_ELASTIC)
        self._world.enter_context(environment({**others, **variables}))
        self._rank, self._world_size = rank, int(variables["WORLD_SIZE"])
        self._attempt = Attempt()
        return size

    def run(self, work: bytes) -> Outcome:
        """Carry out the pickled (target, payload); an exception becomes part of the outcome."""
        attempt = self._attempt
        channel = Channel(
            self._rank, self._world_size, attempt.send, attempt.stop.is_set, attempt.heart
        )
        try:
            # Unpickled here and not by Ray, since it may import torch: after `start`, not before.
            target, payload = pickle.loads(work)
            result = target(payload, channel)
        except BaseException as error:
            failed_at = time.time()
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            return Outcome(
                attempt.take(),
                error_type=type(error).__name__,
                message=str(error),
                traceback=text,
                failed_at=failed_at,
            )
        return Outcome(attempt.take(), result=result)

    def poll(self) -> Pulse:
        """Answer the driver, which takes no answer for a bad sign."""
        attempt = self._attempt
        kills = self.memory_kills()
        return Pulse(attempt.take(), self._terminated.is_set(), kills, attempt.heart.progress())

    def memory_kills(self) -> int:
        """What the kernel counts in this process's memory group by now."""
        return kills_now(self._memory)

    def stop(self) -> None:
        """Make `should_stop` true."""
        self._attempt.stop.set()

    def _watch_signals(self) -> None:
        while received := os.read(self._signals, 1):
            if received[0] == signal.SIGTERM:
                self._terminated.set()


def _exit_with_parent() -> None:
    """End this process when its raylet has died: whoever started the job is gone, too."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
