"""What kind of failure ended a job, in one line that says what to do about it.

The failure class is the key to everything that depends on the kind: result.json shows it, and a
retry budget can be looked up by it. Nothing here imports torch or ray: an error is known by its
attributes (those of `cluster.gang.WorkerFailed`), its type's name and its message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Failure:
    """A class of failures and how to know one: by the error type's name, or by a pattern."""

    name: str
    types: tuple[str, ...]
    pattern: str | None
    remedy: str


# Tried from top to bottom, so the special comes before the general.
FAILURES = (
    Failure(
        "interrupted",
        ("KeyboardInterrupt",),
        None,
        "go on from the last checkpoint with resume=RUN_FOLDER",
    ),
    Failure(
        "out_of_memory",
        ("OutOfMemoryError", "MemoryError"),
        r"out of memory|cannot allocate memory|can't allocate memory|DefaultCPUAllocator"
        r"|CUBLAS_STATUS_ALLOC_FAILED|running low on memory",
        "halve stage.micro_batch_size (the global batch stays the same), or shorten the sequence",
    ),
    Failure(
        "disk_full",
        (),
        r"no space left on device|disk quota exceeded|errno 28\b|errno 122\b",
        "free some space there, then go on from the last checkpoint with resume=RUN_FOLDER",
    ),
    Failure(
        "non_finite_loss",
        ("NonFiniteLoss",),
        r"(loss|gradient( norm)?|grad_norm) (is|was|became|=) *(nan|[+-]?inf|not finite|non-finite)"
        r"|non-finite (loss|gradient)",
        "lower the learning rate or lengthen its warm-up, and look at the batch of that step",
    ),
    Failure(
        "collective",
        ("DistBackendError", "DistNetworkError", "DistStoreError"),
        r"connection (was )?(reset|closed|refused)|socket (closed|timeout)"
        r"|gloo.*(timed out|timeout)|timed out waiting for clients|wait timeout"
        r"|nccl (error|communicator was aborted)|watchdog caught collective|broken pipe",
        "a peer was lost or stuck and none said why: look at every rank's log, and at the network",
    ),
    Failure(
        "user_error",
        (
            *("ValueError", "TypeError", "KeyError", "IndexError", "AttributeError", "NameError"),
            *("ImportError", "ModuleNotFoundError", "UnboundLocalError", "SyntaxError"),
            *("AssertionError", "NotImplementedError", "ZeroDivisionError", "FileNotFoundError"),
            *("PermissionError", "IsADirectoryError", "NotADirectoryError", "GangRefused"),
        ),
        None,
        "the same code with the same config will fail again: read the traceback in the log and "
        "change one of them",
    ),
)

REMEDY_OF_CAUSE = {
    "start": ("start", "the worker never began: read the log and ray.log in the run's logs folder"),
    "lost": (
        "lost_node",
        "go on from the last checkpoint on the other nodes with resume=RUN_FOLDER",
    ),
    "killed": (
        "killed",
        "find who sent the signal, then go on from the last checkpoint with resume=RUN_FOLDER",
    ),
}
REMEDY_OF_CRASH = "native code crashed: the stacks of all threads are in the rank's log"
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")
REMEDY_OF_UNKNOWN = "read the traceback in the log"


@dataclass(frozen=True)
class Explanation:
    """One failure: its class, where it happened, what happened, and what to do about it."""

    failure: str
    rank: int | None
    host: str | None
    message: str
    remedy: str

    def line(self) -> str:
        """For the screen, e.g. `rank 1 on host a was killed by SIGKILL after step 12; run ...`."""
        happened = self.message
        if self.rank is not None:
            where = f"rank {self.rank}" + (f" on host {self.host}" if self.host else "")
            happened = f"{where} {self.message}"
        return f"{happened}; {self.remedy}"


def explain(error: BaseException, step: int | None = None) -> Explanation:
    """Classify an error and say what to do about it.

    Args:
        error: a `WorkerFailed`, or whatever else ended the job.
        step: the last step known to be done, for the message.
    """
    kind = getattr(error, "error_type", None)
    kind = type(error).__name__ if kind is None else str(kind)
    said = str(getattr(error, "message", error)).strip()
    cause = getattr(error, "cause", None)
    rank, host = getattr(error, "rank", None), getattr(error, "host", None)
    failure, remedy = _classify(error, cause, kind, said)
    at = f" after step {step}" if step is not None else ""
    if cause in ("killed", "lost"):
        what, comma, why = said.partition(",")
        message = f"{what}{at}{comma}{why}"
    elif rank is not None:
        message = f"failed{at}: {_short(kind, said)}"
    else:
        message = _short(kind, said) + at
    return Explanation(failure, rank, host, message, remedy)


def _classify(error: BaseException, cause: str | None, kind: str, said: str) -> tuple[str, str]:
    """The failure class and its remedy."""
    known = {failure.name: failure for failure in FAILURES}
    if getattr(error, "out_of_memory", False):
        return "out_of_memory", known["out_of_memory"].remedy
    if cause in REMEDY_OF_CAUSE:
        failure, remedy = REMEDY_OF_CAUSE[cause]
        crashed = getattr(error, "signal", None) in CRASHES
        return failure, REMEDY_OF_CRASH if crashed else remedy
    for candidate in FAILURES:
        if kind in candidate.types:
            return candidate.name, candidate.remedy
        if candidate.pattern and re.search(candidate.pattern, f"{kind}: {said}", re.IGNORECASE):
            return candidate.name, candidate.remedy
    return "user_error", REMEDY_OF_UNKNOWN


def _short(kind: str, said: str, most: int = 300) -> str:
    """Type and first line of what was said; the log has the rest."""
    first = next((line.strip() for line in said.splitlines() if line.strip()), "")
    text = f"{kind}: {first}" if kind and first else kind or first
    return text if len(text) <= most else text[: most - 3] + "..."
