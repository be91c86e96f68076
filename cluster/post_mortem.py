"""What can still be found out about a worker that has died."""

from __future__ import annotations

from types import ModuleType

from cluster.errands import on_node
from cluster.host.memory import kill_report
from cluster.host.processes import process_space
from cluster.worker import Record

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
    arguments = (group, group.kills if kills_before is None else kills_before)
    if worker["space"] == process_space():
        return kill_report(*arguments)
    # None also if the node is gone, too: nobody can tell.
    return on_node(ray, worker["node"], kill_report, *arguments, limit_s=LIMIT_S)
