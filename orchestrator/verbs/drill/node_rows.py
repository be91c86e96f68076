"""Drills that need several nodes: a cluster of raylets on this machine, a worker's room in each."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from cluster.emulated import EmulatedCluster, emulated_cluster, joined
from orchestrator.verbs.drill.network import FAR, NEAR, cable
from orchestrator.verbs.drill.outcome import Context, Outcome
from orchestrator.verbs.drill.rehearsal import Child, DrillError, Job, NotPossible

ON_A_SPARE_S, WITH_FEWER_S = 30.0, 25.0
AWAY_S = 5.0
SHORT_CUT_S, LONG_CUT_S = 5.0, 60.0


def kill_node(context: Context) -> Outcome:
    """A node dies with its worker, and there is another one."""
    with _on_nodes(context, "kill-node", context.config.workers + 1) as (job, cluster):
        trial = job.disturb(job.start(), lambda child: kill(a_node_of(child, cluster)))
        bad = cluster.left()
    return context.judge(
        trial, most_lost=context.interval, itself=True, within_s=ON_A_SPARE_S, more=bad
    )


def shrink(context: Context) -> Outcome:
    """A node dies with its worker, and there is none in its place."""
    workers = _several(context)
    with _on_nodes(context, "shrink", workers, f"[1,{workers}]") as (job, cluster):
        trial = job.disturb(job.start(), lambda child: kill(a_node_of(child, cluster)))
        bad = cluster.left() + _not_resized(trial.child, fewer=True)
    return context.judge(
        trial,
        most_lost=context.interval,
        itself=True,
        within_s=WITH_FEWER_S,
        more=bad,
        resized=True,
    )


def grow(context: Context) -> Outcome:
    """A node comes when the job has fewer workers than it may have: it saves, then takes it."""
    workers = _several(context)
    with _on_nodes(context, "grow", workers - 1, f"[1,{workers}]") as (job, cluster):

        def fault(child: Child) -> None:
            cluster.add()

        trial = job.disturb(job.start(), fault)
        bad = cluster.left() + _not_resized(trial.child, fewer=False)
    return context.judge(trial, most_lost=0, itself=True, more=bad, resized=True)


def restart_head(context: Context) -> Outcome:
    """The head process of the cluster, which keeps its state on a disk, is away for a while."""
    kept = context.folder / "restart-head" / "gcs"
    store = {"RAY_gcs_storage": "rocksdb", "RAY_gcs_storage_path": str(kept)}
    workers = context.config.workers
    with _on_nodes(context, "restart-head", workers, **store) as (job, cluster):
        trial = job.disturb(job.start(), lambda child: cluster.head_away(AWAY_S))
        bad = cluster.left()
    bad += [f"it was disturbed: {event}" for event in trial.child.events("failed")]
    return context.judge(trial, most_lost=0, itself=True, more=bad)


def kill_head(context: Context) -> Outcome:
    """The head process of the cluster and its node die for good; then another Ray has to do."""
    with _on_nodes(context, "kill-head", context.config.workers) as (job, cluster):
        job.to_resume = ["resources.address=null"]

        def fault(child: Child) -> None:
            head = cluster.nodes[0]
            assert head.head is not None
            kill(head.head)
            kill(head.raylet)

        trial = job.disturb(job.start("resources.wait_minutes=0.1"), fault)
    return context.judge(trial, most_lost=context.interval)


def cut_network(context: Context) -> Outcome:
    """No packet between two hosts, for a moment and then until Ray gives one of them up.

    The first cut must not be noticed. After the second the job goes on where its driver is, and
    what is left of it on the other host, once it can be reached again, must not write.
    """
    workers = _several(context)
    with cable() as link, ExitStack() as stack:
        cpus, folder = context.config.resources.cpus_per_worker, context.folder / "cut-network"
        near = _cluster(context, workers - 1, ip=NEAR, log=folder / "ray.log")
        cluster = stack.enter_context(near)
        far = joined(cluster, cpus, ip=FAR, log=folder / "far.log", within=link.within)
        stack.enter_context(far)
        job = _job(context, "cut-network", cluster, f"[1,{workers}]")

        def fault(child: Child) -> None:
            before = len(child.steps())
            link.cut(SHORT_CUT_S)
            if child.events("failed"):
                raise DrillError(f"a cut of {SHORT_CUT_S:g} s ended an attempt")
            child.until(lambda: len(child.steps()) > before + 1, "a step after the short cut")
            link.cut(LONG_CUT_S)

        trial = job.disturb(job.start(), fault)
    bad = [] if trial.child.events("failed") else ["the long cut was not noticed"]
    return context.judge(trial, most_lost=context.interval, itself=True, more=bad, resized=True)


def kill(raylet: int) -> None:
    """The server of a node is gone at once, and its workers with it."""
    os.kill(raylet, signal.SIGKILL)


def a_node_of(child: Child, cluster: EmulatedCluster) -> int:
    """Process id of the server of a node with a worker on it: any but the head of the cluster."""
    used = {worker["node"] for worker in child.events("admitted")[-1]["workers"]}
    raylets = [own.raylet for own in cluster.nodes[1:] if own.node in used]
    if not raylets:
        raise DrillError("all workers are on the head of the cluster")
    return raylets[-1]


def _several(context: Context) -> int:
    workers = context.config.workers
    if workers < 2:
        raise NotPossible("resources.workers=1 can't become fewer; try resources=cpu2")
    return workers


def _not_resized(child: Child, *, fewer: bool) -> list[str]:
    sizes = [(e["workers_before"], e["workers"]) for e in child.events("resized")]
    if any((now < before) == fewer for before, now in sizes):
        return []
    return [f"it did not go on with {'fewer' if fewer else 'more'} workers"]


@contextmanager
def _on_nodes(
    context: Context, name: str, nodes: int, workers: str | None = None, **more: str
) -> Iterator[tuple[Job, EmulatedCluster]]:
    """The job on a cluster of so many nodes, each with room for one worker.

    Args:
        context: the job.
        name: of the drill.
        nodes: how many.
        workers: how many it may have. None: as many as it is meant to have.
        more: environment variables for the servers.
    """
    log = context.folder / name / "ray.log"
    with _cluster(context, nodes, log=log, **more) as cluster:
        yield _job(context, name, cluster, workers), cluster


def _cluster(
    context: Context, nodes: int, **options: Any
) -> AbstractContextManager[EmulatedCluster]:
    """Nodes with room for one worker each. Raises NotPossible where there can be none."""
    resources = context.config.resources
    if resources.gpus_per_worker:
        raise NotPossible("the nodes of one machine can't share out its GPUs; try resources=cpu2")
    return emulated_cluster(nodes, resources.cpus_per_worker, **options)


def _job(context: Context, name: str, cluster: EmulatedCluster, workers: str | None) -> Job:
    settings = {
        "address": cluster.address,
        "workers": workers or context.config.workers,
        "cpus_per_worker": context.config.resources.cpus_per_worker,
        "gpus_per_worker": 0,
    }
    words = [f"resources.{setting}={value}" for setting, value in settings.items()]
    return context.job(name, *words, **cluster.environment)
