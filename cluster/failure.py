"""How workers fail: by an exception, by death, or by silence; and which of them is to blame."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.worker import Outcome, Record

# What a healthy rank sees when a peer has gone: gloo, NCCL and torch's store, in that order.
ECHO = re.compile(
    r"connection (was )?(reset|closed|refused)|broken pipe|socket.* (closed|timeout|timed out)"
    r"|gloo.*(timed out|timeout)|timed out waiting|remote process exited|peer closed|pair closure"
    r"|wait timeout|watchdog caught collective|process group .*(aborted|terminat)"
    r"|nccl (error|communicator was aborted|operation .* failed)|nccl(System|Remote|Internal)Error",
    re.IGNORECASE,
)
NO_MEMORY = re.compile(r"bad_alloc|cannot allocate memory|out of memory", re.IGNORECASE)
CRASH = re.compile(r"^Fatal Python error: (.*)$", re.MULTILINE)  # written by faulthandler
NODE_DEATH = re.compile(r"node (has |was |is )?(died|dead|terminated|marked dead)", re.IGNORECASE)
SIGNALS_OF_CRASHES = {
    "Segmentation fault": "SIGSEGV",
    "Aborted": "SIGABRT",
    "Bus error": "SIGBUS",
    "Floating-point exception": "SIGFPE",
    "Illegal instruction": "SIGILL",
}


# What is known of a worker that died before it could describe itself.
UNKNOWN: Record = {"host": "an unknown host", "node": "", "memory": None, "log_begins_at": 0}


class WorkerFailed(Exception):
    """One worker ended the gang: by an exception, by the death of its process or node, by silence.

    `cause` is "exception", "killed" (its process died), "lost" (its node died or cannot be
    reached), "silent" (it does not answer: its process is stopped, or nobody knows why), "hang"
    (its gang does not come on, because of it if it has a rank) or "start".
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
        self.seen_after_s: float | None = None
        """Seconds from the worker's last sign of life to when it was known to have failed."""
        self.seen_at = time.monotonic()
        """When it was known, by this process's monotonic clock."""
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


def from_death(error: Exception, worker: Record, memory: str | None = None) -> WorkerFailed:
    """The failure of a worker that Ray found dead, or whose answer Ray could not carry.

    Ray tells no signal. A process that left no exception and no report of a crash in its log
    was killed from outside: SIGKILL, by a person, or by the kernel because memory ran out.

    Args:
        error: what Ray raised.
        worker: the description of the one that died.
        memory: how the memory stood, in words, if the kernel killed because it ran out.
    """
    log, text, kind = Path(worker["log"]), str(error), type(error).__name__
    facts: dict[str, Any] = {"rank": worker["rank"], "host": worker["host"], "log": log}
    if "ActorUnavailable" in kind:
        message = "cannot be reached: its host is down, overloaded or cut off from the network"
        return WorkerFailed(cause="lost", error_type="", message=message, traceback=text, **facts)
    if "ActorDied" not in kind and "OutOfMemory" not in kind:
        return WorkerFailed(cause="exception", error_type=kind, message=text, **facts)
    if NODE_DEATH.search(text):
        message = f"was lost with its node {worker['node'][:8]}"
        return WorkerFailed(cause="lost", error_type="", message=message, traceback=text, **facts)
    written = _written_since(log, worker["log_begins_at"])
    crash = CRASH.findall(written)
    aborted_for_memory = bool(crash) and bool(NO_MEMORY.search(written))
    signal = SIGNALS_OF_CRASHES.get(crash[-1]) if crash else "SIGKILL"
    if crash:
        message = f"was killed by {signal}" if signal else f"died: {crash[-1]}"
        message += ": native code got no memory" if aborted_for_memory else ""
    elif memory:
        message = f"was killed by SIGKILL, by the kernel: {memory}"
    else:
        message = "was killed by SIGKILL, it seems: it left no exception and no crash report"
    return WorkerFailed(
        cause="killed",
        error_type="",
        message=message,
        traceback=text,
        signal=signal,
        out_of_memory=bool(memory) or aborted_for_memory or "running low on memory" in text,
        **facts,
    )


def from_silence(
    worker: Record, silent_s: float, *, node_answers: bool = True, stopped: bool = False
) -> WorkerFailed:
    """The failure of a worker that no longer answers: frozen, or lost with its node."""
    why = "its process is stopped (SIGSTOP)" if stopped else "it is stuck, or its host hangs"
    message = f"has not answered for {silent_s:.0f} s: {why}"
    if not node_answers:
        message = f"was lost with its node {worker['node'][:8]}: neither answers any more"
    return WorkerFailed(
        rank=worker["rank"],
        host=worker["host"],
        cause="silent" if node_answers else "lost",
        error_type="",
        message=message,
        log=Path(worker["log"]),
    )


def from_hang(worker: Record, message: str, *, all_of_them: bool) -> WorkerFailed:
    """The failure of a gang in which nobody comes on: because of one worker, or of no single one.

    Args:
        worker: the one to blame, or any.
        message: what was seen, for the words behind `rank 1 on host a`, or without them.
        all_of_them: whether no single worker is to blame.
    """
    return WorkerFailed(
        rank=None if all_of_them else worker["rank"],
        host=worker["host"],
        cause="hang",
        error_type="",
        message=message,
        log=Path(worker["log"]),
    )


def _written_since(log: Path, position: int, most: int = 100_000) -> str:
    """The end of a log from `position` on; empty if it is not on this host."""
    try:
        with log.open("rb") as file:
            file.seek(max(position, log.stat().st_size - most))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
