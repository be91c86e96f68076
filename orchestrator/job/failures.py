"""What kind of failure ended a job, in one line that says what to do about it.

The failure class is the key to everything that depends on the kind: result.json shows it, and
how often the run goes on after it is looked up by it (`config/recovery.py`). Nothing here imports
torch or ray: an error is known by its attributes (those of `cluster.gang.WorkerFailed`), its type's
name and its message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from cluster.failure import ECHO


@dataclass(frozen=True)
class Rule:
    """How an error is known, by its type's name or by a pattern in `type: message`."""

    failure: str
    """Its class, a key of `config.recovery.BUDGETS`."""
    remedy: str
    """What to do; `{log}` is where the traceback stands, `{go_on}` says how to go on."""
    types: tuple[str, ...] = ()
    pattern: str | None = None
    own_words: bool = False
    """Whether such an error may end with what to do, behind a semicolon; then that is said."""


GO_ON = "{go_on}"
RESUME = "go on from the last checkpoint with resume=RUN_FOLDER"
START_AGAIN = "start again, for there is no checkpoint yet"
READ = "read the traceback in {log}"

# Tried from top to bottom, so the special comes before the general.
RULES = (
    Rule("interrupted", GO_ON, types=("KeyboardInterrupt",)),
    Rule(
        "out_of_memory",
        "give it more memory, or prepare with fewer --workers",
        pattern=r"^PoolFailed: .*out of memory",
    ),
    Rule(
        "no_room",
        f"see whose workers are there, ask for less or let it wait longer with "
        f"resources.wait_minutes, then {GO_ON}",
        types=("NoRoom",),
    ),
    Rule(
        "no_room",
        f"start it again, let the run wait longer with resources.wait_minutes, or {GO_ON}, and "
        "without that cluster with resources.address=null",
        types=("ClusterAway",),
    ),
    Rule("start", "see logs/ray.log, and whether the host is overloaded", types=("RayNotStarted",)),
    Rule("worker_lost", "find out who killed them, then start again", types=("PoolFailed",)),
    Rule(
        "out_of_memory",
        "halve stage.micro_batch_size (the global batch stays the same), or shorten the sequence",
        types=("OutOfMemoryError", "MemoryError"),
        pattern=r"out of memory|cannot allocate memory|can't allocate memory|DefaultCPUAllocator"
        r"|CU(BLAS|SOLVER|SPARSE)_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
        r"|running low on memory|MemoryError: |unable to allocate|[mr]e?alloc of size|bad_alloc",
    ),
    Rule(
        "disk",
        f"free some space there, then {GO_ON}",
        pattern=r"no space left on device|disk quota exceeded|errno 28\b|errno 122\b",
    ),
    Rule(
        "numerical",
        "lower the learning rate or lengthen its warm-up; in pretraining stage.replay looks at the "
        "step again, and stage.on_bad_loss=skip leaves its batch out",
        types=("NonFiniteLoss", "LossSpike", "NonFiniteState"),
        pattern=r"(loss|gradient( norm)?|grad_norm) (is|was|became|=) *(nan|[+-]?inf|not finite"
        r"|non-finite)|non-finite (loss|gradient|\w+ of)",
    ),
    Rule("numerical", READ, types=("RanAway",), own_words=True),
    Rule("network", READ, types=("EndpointAway",), own_words=True),
    Rule("user_error", READ, types=("EndpointRefused",), own_words=True),
    Rule("fenced", "follow that attempt with `orchestrate show`", types=("Fenced",)),
    Rule(
        "not_shared",
        "let every host see that folder, then start again",
        types=("FilesNotBrought", "NotOnThisHost"),
    ),
    Rule(
        "bad_data",
        "`orchestrate data verify` names all that is damaged",
        types=("DataError", "BadBlock", "DamagedData", "ColumnError", "NothingToTrainOn"),
        own_words=True,
    ),
    Rule(
        "bad_data",
        "name another checkpoint or run folder, e.g. with resume=",
        types=(
            *("CheckpointError", "DifferentState", "JournalError"),
            *("SafetensorError", "TensorFileError"),
        ),
    ),
    Rule(
        "storage",
        f"look at the file system there; once it answers, {GO_ON}",
        pattern=r"input/output error|remote i/o error|stale (nfs )?file handle"
        r"|read-only file system|transport endpoint is not connected|structure needs cleaning"
        r"|(errno|os error) (5|30|107|116|117|121)\b",
    ),
    Rule(
        "user_error",
        "an index is out of its range, such as a label or token beyond its table: run it on the "
        "CPU, or with CUDA_LAUNCH_BLOCKING=1, and " + READ,
        pattern=r"device-side assert",
    ),
    Rule(
        "hardware",
        f"look at `nvidia-smi -q` and `dmesg` of that host, leave the device out, then {GO_ON}; "
        "if another device fails at the same step it is a bug of a kernel",
        pattern=r"illegal memory access|misaligned address|unspecified launch failure"
        r"|illegal instruction was encountered|hardware (stack )?error|uncorrectable|\bECC error"
        r"|\bXid\b|fallen off the bus|GPU is lost|NVLink|busy or unavailable"
        r"|C(UBLAS|USOLVER|USPARSE|UDNN)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR)"
        r"|unhandled cuda error|launch timed out and was terminated",
    ),
    Rule(
        "network",
        "a peer was lost or stuck and none said why: look at every rank's log, and at the network",
        types=("DistBackendError", "DistNetworkError", "DistStoreError"),
        pattern=ECHO.pattern,
    ),
    Rule(
        "network",
        f"see whether what it waited for is up and not overloaded, then {GO_ON}",
        types=(
            *("TimeoutError", "GetTimeoutError", "ReadTimeout", "ConnectTimeout", "TimeoutExpired"),
            *("ActorUnavailableError", "RpcError"),
        ),
        pattern=r"timed[ -]?out|deadline exceeded|time-out|\btimeout\b",
    ),
    Rule("user_error", "ask for less, or for a larger cluster", types=("GangRefused",)),
    Rule(
        "user_error",
        f"the same code with the same config will fail again: {READ} and change one of them",
        types=(
            *("ValueError", "TypeError", "KeyError", "IndexError", "AttributeError", "NameError"),
            *("ImportError", "ModuleNotFoundError", "UnboundLocalError", "SyntaxError"),
            *("AssertionError", "NotImplementedError", "ZeroDivisionError", "FileNotFoundError"),
            *("PermissionError", "IsADirectoryError", "NotADirectoryError", "RecursionError"),
            "FileExistsError",
        ),
        # What torch says of code and settings that do not fit each other.
        pattern=r"cannot be multiplied|must match|size mismatch|shape mismatch|is invalid for input"
        r"|errno (2|13|17|20|21)\b"
        r"|expected .* (but|got|same)|in loading state_dict|out of (range|bounds)"
        r"|not implemented for|does not require grad|backward through the graph|inplace operation"
        r"|not compatible with|invalid device ordinal|no kernel image|not compiled with",
    ),
)

# What the driver saw of a worker that raised nothing (`WorkerFailed.cause`).
RULES_OF_CAUSES = {
    "start": Rule("start", "the worker never began: read {log} and logs/ray.log"),
    "lost": Rule("node_lost", f"mend that node or leave it out, then {GO_ON}"),
    "silent": Rule("hang", f"see what that host is busy with, then {GO_ON}"),
    "hang": Rule("hang", f"read the stacks of all ranks in logs/stacks-rank-*.txt, then {GO_ON}"),
    "killed": Rule("worker_lost", f"find who sent the signal, then {GO_ON}"),
}
CRASHED = Rule("worker_lost", "native code crashed: the stacks of all threads are in {log}")
KILLED_FOR_MEMORY = Rule(
    "out_of_memory",
    "give the job more memory, or start fewer workers on a host; halving stage.micro_batch_size "
    "helps where the batch is what is large",
)
UNKNOWN = Rule("unknown", READ)
CRASHES = ("SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE", "SIGILL")


@dataclass(frozen=True)
class Explanation:
    """One failure: its class, where it happened, what happened, and what to do about it."""

    failure: str
    """Its class, a key of `config.recovery.BUDGETS`."""
    rank: int | None
    host: str | None
    message: str
    remedy: str

    @property
    def happened(self) -> str:
        """Where and what, e.g. `rank 1 on host a was killed by SIGKILL after step 12`."""
        if self.rank is None:
            return self.message
        where = f"rank {self.rank}" + (f" on host {self.host}" if self.host else "")
        return f"{where} {self.message}"

    def line(self) -> str:
        """For the screen: what happened and what to do about it."""
        return f"{self.happened}; {self.remedy}"


def explain_failure(
    error: BaseException,
    step: int | None = None,
    log: Path | None = None,
    *,
    resumable: bool = True,
) -> Explanation:
    """Classify an error and say what to do about it.

    Args:
        error: a `WorkerFailed`, or whatever else ended the job.
        step: the last step known to be done, for the message.
        log: where the traceback of an error that knows no log of its own was written.
        resumable: whether the job has a checkpoint.
    """
    kind = getattr(error, "error_type", None)
    kind = type(error).__name__ if kind is None else str(kind)
    said = str(getattr(error, "message", error)).strip()
    cause = getattr(error, "cause", None)
    rank, host = getattr(error, "rank", None), getattr(error, "host", None)
    rule = _rule(error, cause, kind, said)
    advice = ""
    if rule.own_words and "; " in said:
        said, advice = said.rsplit("; ", 1)
    at = f" after step {step}" if step is not None else ""
    if cause in ("killed", "lost", "silent", "hang"):
        what = re.match(r"[^,:]*", said)
        assert what is not None  # it may be empty
        message = f"{what[0]}{at}{said[what.end() :]}"
    elif rank is not None:
        message = f"failed{at}: {_short(kind, said)}"
    else:
        message = _short(kind, said) + at
    place = getattr(error, "log", None) or log
    remedy = (advice or rule.remedy).replace("{go_on}", RESUME if resumable else START_AGAIN)
    shown = _shown(place) if place else "what the command prints with HYDRA_FULL_ERROR=1"
    remedy = remedy.replace("{log}", shown)
    return Explanation(rule.failure, rank, host, message, remedy)


def _rule(error: BaseException, cause: str | None, kind: str, said: str) -> Rule:
    """The first rule that knows the error."""
    if cause in RULES_OF_CAUSES:
        if getattr(error, "out_of_memory", False):
            return KILLED_FOR_MEMORY
        if getattr(error, "signal", None) in CRASHES:
            return CRASHED
        return RULES_OF_CAUSES[cause]
    for rule in RULES:
        if kind in rule.types:
            return rule
        if rule.pattern and re.search(rule.pattern, f"{kind}: {said}", re.IGNORECASE):
            return rule
    return UNKNOWN


def _shown(log: Path) -> str:
    """A log as it stands in the run folder."""
    return f"logs/{log.name}" if log.parent.name == "logs" else str(log)


def _short(kind: str, said: str, most: int = 300) -> str:
    """Type and first line of what was said; the log has the rest."""
    first = next((line.strip() for line in said.splitlines() if line.strip()), "")
    text = f"{kind}: {first}" if kind and first else kind or first
    return text if len(text) <= most else text[: most - 3] + "..."
