"""What can be found out about a worker that has died, or that does not come on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from cluster.errands import on_node
from cluster.host.memory import kill_report
from cluster.host.processes import is_stopped, process_space
from cluster.host.stacks import write_stacks
from cluster.worker import Record

Result = TypeVar("Result")

LIMIT_S = 10.0  # for a node that may be on its way out, too


def memory_report(ray: ModuleType, worker: Record, kills_before: int | None) -> str | None:
    """How the memory of a dead worker's host stood, if the kernel has killed there since then.

    Args:
        ray: connected to the cluster.
        worker: description of the one that died.
        kills_before: the count when it last answered; None: when it began.
    """
    group = worker["memory"]
    if group is None:
        return None
    kills = group.kills if kills_before is None else kills_before
    return _beside(ray, worker, kill_report, group, kills)


def stopped(ray: ModuleType, worker: Record) -> bool:
    """Whether a worker's process is known to be stopped by a signal (SIGSTOP)."""
    return bool(_beside(ray, worker, is_stopped, worker["pid"], worker["started"]))


def stacks(ray: ModuleType, worker: Record) -> str | None:
    """Where the threads of a living worker are; None if nobody can tell."""
    log = Path(worker["log"])
    return _beside(ray, worker, write_stacks, worker["pid"], worker["started"], log)


def _beside(
    ray: ModuleType, worker: Record, function: Callable[..., Result], *arguments: object
) -> Result | None:
    """Call a function on the worker's host; None also if its node does not answer."""
    if worker["space"] == process_space():
        return function(*arguments)
    return on_node(ray, worker["node"], function, *arguments, limit_s=LIMIT_S)
