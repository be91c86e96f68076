"""Jobs under torchrun: rank 0 makes everything ready, the others wait for its word.

Rank 0 is the driver, too: it prepares the data, makes the run folder and writes the record. It
hands the assignment to the others through torchrun's store, where they wait however long it
takes; torchrun itself ends them if rank 0 dies.
"""

import json
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from cluster.gang import WorkerFailed, run_inline
from cluster.host.output import output_to
from cluster.inline import given_world_size
from orchestrator.config import JobConfig
from orchestrator.job.codes import DONE, FAILED, INTERRUPTED, REFUSED
from orchestrator.job.rank import Assignment, environment, work
from orchestrator.job.signals import handled

NOTHING_TO_DO = b"refused"
LOOK = timedelta(seconds=30)  # at a time; the waiting itself has no end
ECHO_WAIT = timedelta(seconds=2)  # for word of the failure that made rank 0 lose its connection


def is_follower(config: JobConfig) -> bool:
    """Whether torchrun has started this process as another rank than 0."""
    inline = config.resources.launcher == "inline"
    return inline and given_world_size() is not None and os.environ["RANK"] != "0"


def has_followers(config: JobConfig) -> bool:
    """Whether this process is rank 0 of several that torchrun has started."""
    return config.resources.launcher == "inline" and (given_world_size() or 1) > 1


def check_launcher(config: JobConfig) -> None:
    """Raise ValueError if torchrun has started several processes, each of which would be a job."""
    several = (given_world_size() or 1) > 1
    if config.resources.launcher != "inline" and several and "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError(
            f"resources.launcher={config.resources.launcher} would start a job in each of the "
            f"{os.environ['WORLD_SIZE']} processes of torchrun; add resources=inline, or leave "
            "torchrun out"
        )


@contextmanager
def leading(config: JobConfig) -> Iterator[Callable[[Assignment], None]]:
    """Rank 0, from its start until its part is done; yields how to hand out the assignment.

    An error before that sets the others free. Without other ranks there is nobody to tell: for a
    job of another launcher, whatever variables torchrun has left, and for one process alone.
    """
    if not has_followers(config):
        yield lambda assignment: None
        return
    store, told = _store(), False

    def hand_out(assignment: Assignment) -> None:
        nonlocal told
        store.set(_key(), pickle.dumps(assignment))
        told = True

    try:
        yield hand_out
    finally:
        if not told:
            store.set(_key(), NOTHING_TO_DO)


def follow(config: JobConfig) -> int:
    """Another rank: wait for the assignment and carry it out; returns the exit code.

    Rank 0 writes the record and tells the user; what this rank says is in its log.
    """
    os.environ.update(environment(config))
    stop = threading.Event()
    with handled(lambda number, frame: stop.set()):
        store = _store()
        received = wait_for_word(store)
        if received == NOTHING_TO_DO:
            return REFUSED
        assignment: Assignment = pickle.loads(received)  # written by rank 0 of this very job
        log = assignment.folder / "logs" / f"rank-{os.environ['RANK']}.log"
        with output_to(log, 1, 2):
            try:
                result = run_inline(work, assignment, on_records=_ignore, stop=stop)
            except Exception as error:
                traceback.print_exc()
                leave_word(store, error, log)
                return FAILED
    return INTERRUPTED if result.stopped else DONE


def wait_for_word(store: Any) -> bytes:
    """What rank 0 has to say, however long it takes."""
    from torch.distributed import DistStoreError

    while True:
        try:
            store.wait([_key()], LOOK)
        except DistStoreError:  # rank 0 is still at work
            continue
        said: bytes = store.get(_key())
        return said


def leave_word(store: Any, error: Exception, log: Path) -> None:
    """Another rank tells rank 0 of its failure, unless it has itself only lost a connection."""
    facts = _facts(error)
    if not WorkerFailed(**facts).is_echo:
        store.compare_set(_key("failure"), "", json.dumps({**facts, "log": str(log)}))


def failure_of_another(error: Exception) -> WorkerFailed | None:
    """The first failure that another rank has left word of, if rank 0 has only lost a connection.

    None: rank 0's error is the cause, or nobody has said more.
    """
    from torch.distributed import DistStoreError

    if not WorkerFailed(**_facts(error)).is_echo:
        return None
    store = _store()
    try:
        store.wait([_key("failure")], ECHO_WAIT)
    except DistStoreError:
        return None
    facts = json.loads(store.get(_key("failure")))
    return WorkerFailed(**{**facts, "log": Path(facts["log"])})


def _facts(error: Exception) -> dict[str, Any]:
    """What a rank's failure is, for `WorkerFailed`."""
    return {
        "rank": int(os.environ["RANK"]),
        "host": os.uname().nodename,
        "cause": "exception",
        "error_type": type(error).__name__,
        "message": str(error),
    }


def _ignore(rank: int, records: object) -> None:
    """Rank 0 alone keeps the record."""


def _key(what: str = "assignment") -> str:
    """The store outlives the processes when torchrun starts them again."""
    return f"orchestrate/{what}/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"


def _store() -> Any:
    """The store that torchrun keeps for its ranks; without one, rank 0 keeps it."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not kept and os.environ["RANK"] == "0",
        wait_for_workers=False,
        multi_tenant=True,
    )
