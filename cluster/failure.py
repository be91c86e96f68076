"""How a gang fails: what the cluster refuses, and which worker was the first cause."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.worker import Outcome, Record

# What a healthy rank sees when a peer has gone: gloo, NCCL and torch's store, in that order.
ECHO = re.compile(
    r"connection (was )?(reset|closed|refused)|broken pipe|socket (closed|timeout)"
    r"|gloo.*timed out|timed out waiting|nccl (communicator was aborted|error)"
    r"|remote process exited|peer closed|wait timeout|watchdog caught collective",
    re.IGNORECASE,
)
CRASH = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)  # written by faulthandler
SIGNALS_OF_CRASHES = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}


class GangRefused(ValueError):  # reads as what happened
    """The gang asks for more workers, CPUs or GPUs than the cluster can ever have."""


class WorkerFailed(Exception):
    """One worker ended the gang: by an exception, or because its process or its node died.

    `cause` is "exception", "killed" (its process died), "lost" (its node died) or "start".
    `signal` is the signal's name where it is known, e.g. "SIGKILL"; `out_of_memory` says that
    Ray's or the kernel's memory killer was at work.
    """

    def __init__(
        self,
        *,
        rank: int | None,
        host: str,
        cause: str,
        error_type: str,
        message: str,
        traceback: str = "",
        log: Path | None = None,
        signal: str | None = None,
        out_of_memory: bool = False,
        failed_at: float | None = None,
    ) -> None:
        """Facts only; what to do about it is said elsewhere. `failed_at` in seconds since 1970."""
        self.rank, self.host, self.cause = rank, host, cause
        self.error_type, self.message, self.traceback = error_type, message, traceback
        self.log, self.signal, self.out_of_memory = log, signal, out_of_memory
        self.failed_at = time.time() if failed_at is None else failed_at
        where = "a worker" if rank is None else f"rank {rank} on {host}"
        super().__init__(
            f"{where}: {error_type}: {message}" if error_type else f"{where} {message}"
        )

    @property
    def is_echo(self) -> bool:
        """Whether this is what a rank sees when *another* rank has failed."""
        return self.cause == "exception" and bool(ECHO.search(self.message))


def first_cause(failures: Sequence[WorkerFailed]) -> WorkerFailed:
    """The failure to blame: the earliest that is not merely the echo of another."""
    return min(failures, key=lambda failure: (failure.is_echo, failure.failed_at))


def from_outcome(outcome: Outcome, worker: Record) -> WorkerFailed:
    """The failure of a worker whose target raised."""
    return WorkerFailed(
        rank=worker["rank"],
        host=worker["host"],
        cause="exception",
        error_type=outcome.error_type or "",
        message=outcome.message,
        traceback=outcome.traceback,
        log=Path(worker["log"]),
        failed_at=outcome.failed_at,
    )


def from_death(error: Exception, worker: Record, memory_kills: int = 0) -> WorkerFailed:
    """The failure of a worker that Ray found dead, or whose answer Ray could not carry.

    Ray tells no signal. A process that left no exception and no report of a crash in its log
    was killed from outside: SIGKILL, by a person, or by the kernel if it counted memory kills.
    """
    log, text = Path(worker["log"]), str(error)
    facts: dict[str, Any] = {"rank": worker["rank"], "host": worker["host"], "log": log}
    if "ActorDied" not in type(error).__name__ and "OutOfMemory" not in type(error).__name__:
        kind = type(error).__name__
        return WorkerFailed(cause="exception", error_type=kind, message=text, **facts)
    if re.search(r"node (has |was |is )?(died|dead|terminated|marked dead)", text, re.IGNORECASE):
        message = f"was lost with its node {worker['node'][:8]}"
        return WorkerFailed(cause="lost", error_type="", message=message, traceback=text, **facts)
    crash = CRASH.findall(_written_since(log, worker["log_begins_at"]))
    signal = SIGNALS_OF_CRASHES.get(crash[-1]) if crash else "SIGKILL"
    if crash:
        message = f"was killed by {signal}" if signal else f"died: {crash[-1]}"
    elif memory_kills:
        message = "was killed by SIGKILL, by the kernel, which ran out of memory"
    else:
        message = "was killed by SIGKILL, it seems: it left no exception and no crash report"
    return WorkerFailed(
        cause="killed",
        error_type="",
        message=message,
        traceback=text,
        signal=signal,
        out_of_memory=memory_kills > 0 or "running low on memory" in text,
        **facts,
    )


def _written_since(log: Path, position: int, most: int = 100_000) -> str:
    """The end of a log from `position` on; empty if it is not on this host."""
    try:
        with log.open("rb") as file:
            file.seek(max(position, log.stat().st_size - most))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
