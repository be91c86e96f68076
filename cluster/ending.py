"""The end of workers: whatever state they are in, they and all that they started are gone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import psutil

from cluster.errands import on_nodes
from cluster.head import head_answers, node_answers
from cluster.host.processes import end_processes, process_space, worker_processes
from cluster.worker import Record

REMOTE_LIMIT_S = 10.0
GRACE_S = 0.5  # Ray ends a worker that listens faster than that


def end_workers(ray: ModuleType, actors: Iterable[Any], workers: Sequence[Record]) -> None:
    """Kill actors, and their processes with all that these started.

    Ray asks a worker to end; one that is stopped (SIGSTOP) or stuck in native code does not hear
    it, and Ray knows nothing of its children. So each host kills the processes by number.

    Args:
        ray: connected to the cluster.
        actors: also those that never began.
        workers: descriptions of those that began (`Worker.describe`).
    """
    here = _end_elsewhere(ray, workers)
    for actor in actors:
        ray.kill(actor, no_restart=True)
    end_processes(here, GRACE_S)


def end_processes_of(ray: ModuleType, workers: Sequence[Record]) -> None:
    """Kill the processes of workers with all that they started; Ray finds them dead."""
    end_processes(_end_elsewhere(ray, workers), grace_s=0)


def _end_elsewhere(ray: ModuleType, workers: Sequence[Record]) -> list[psutil.Process]:
    """Kill the processes of workers on other hosts; returns those of this one."""
    here, elsewhere = [], defaultdict(list)
    own_space = process_space()
    for worker in workers:
        process = (worker["pid"], worker["started"])
        if worker["space"] == own_space:
            here += worker_processes(*process)
        else:
            elsewhere[worker["node"]].append(process)
    if elsewhere and head_answers(ray):
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        # Ray takes a node for alive for a while after its end; a call to it would be waited for.
        answering = [node for node in elsewhere if node in alive and node_answers(ray, node)]
        calls = {node: [elsewhere[node]] for node in answering}
        on_nodes(ray, calls, kill_workers, limit_s=REMOTE_LIMIT_S)
    return here


def kill_workers(workers: Iterable[tuple[int, int]]) -> None:
    """SIGKILL workers of this host, told by pid and start, with all that they started."""
    found = [process for worker in workers for process in worker_processes(*worker)]
    end_processes(found, grace_s=0)
