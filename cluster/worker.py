"""One worker of a gang, as seen from inside its own process.

1. Ray starts the process; nothing heavy is imported yet.
2. `describe` tells the driver where it is; the driver decides on ranks.
3. `start` sets the log file and the environment that torch.distributed reads.
4. `run` carries out the target in one thread, while `poll` and `stop` answer in others.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import random
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


class Worker:
    """The Ray actor. Its methods run in a pool of threads (`max_concurrency`)."""

    def __init__(self) -> None:
        """Nothing is set up yet; the process exits if its raylet goes away."""
        self._records: list[Record] = []
        self._lock = threading.Lock()
        self._stop, self._terminated = threading.Event(), threading.Event()
        # Ray's own handler would end the process only when the target has returned, and no Python
        # handler runs while the main thread waits in Ray's C++: a pipe gets the signal at once.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        self._signals, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signals, daemon=True, name="signal-watch").start()
        threading.Thread(target=_exit_with_parent, daemon=True, name="parent-watch").start()

    def describe(self) -> Record:
        """Where this worker is: host, ip, node, pid, and the GPUs that Ray assigned to it."""
        import ray

        context = ray.get_runtime_context()
        return {
            "host": os.uname().nodename,
            "ip": ray.util.get_node_ip_address(),  # type: ignore[no-untyped-call]
            "node": context.get_node_id(),
            "pid": os.getpid(),
            "gpus": context.get_accelerator_ids().get("GPU", []),
        }

    def free_port(self) -> int:
        """A TCP port that is free on this worker's host."""
        return free_port()

    def start(self, rank: int, log: Path, environment: dict[str, str]) -> int:
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
        os.environ.update(environment)
        self._rank, self._world_size = rank, int(environment["WORLD_SIZE"])
        return size

    def run(self, work: bytes) -> Outcome:
        """Carry out the pickled (target, payload); an exception becomes part of the outcome."""
        channel = Channel(self._rank, self._world_size, self._send, self._stop.is_set)
        try:
            # Unpickled here and not by Ray, since it may import torch: after `start`, not before.
            target, payload = pickle.loads(work)
            result = target(payload, channel)
        except BaseException as error:
            failed_at = time.time()
            text = traceback.format_exc()
            print(text, file=sys.stderr, flush=True)
            return Outcome(
                self._take(),
                error_type=type(error).__name__,
                message=str(error),
                traceback=text,
                failed_at=failed_at,
            )
        return Outcome(self._take(), result=result)

    def poll(self) -> tuple[list[Record], bool]:
        """Records sent since the last poll, in order; and whether this process got SIGTERM."""
        return self._take(), self._terminated.is_set()

    def stop(self) -> None:
        """Make `should_stop` true."""
        self._stop.set()

    def _watch_signals(self) -> None:
        while received := os.read(self._signals, 1):
            if received[0] == signal.SIGTERM:
                self._terminated.set()

    def _send(self, record: Record) -> None:
        with self._lock:
            self._records.append(record)

    def _take(self) -> list[Record]:
        with self._lock:
            taken, self._records = self._records, []
        return taken


def free_port() -> int:
    """A TCP port that nobody listens on here.

    Taken from below the ephemeral range (32768 and up), where the kernel puts everybody
    else's connections, so that it is still free when torch binds it.
    """
    for port in random.SystemRandom().sample(range(15000, 32000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise RuntimeError("none of 100 TCP ports between 15000 and 32000 is free")


def _exit_with_parent() -> None:
    """End this process when its raylet has died: whoever started the job is gone, too."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
