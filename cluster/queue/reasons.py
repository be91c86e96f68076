"""Why a job waits, in one sentence with the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np

from cluster.queue.job import Bundle, Job, Quota, State
from cluster.queue.placing import RESOURCES, Cluster, Kinds, need_of

HOUR_S = 3600


def unmet(waits_for: Sequence[tuple[str, State]]) -> str:
    """It runs after others that are not done."""
    vain = [one for one in waits_for if one[1] in (State.FAILED, State.STOPPED)]
    job_id, state = (vain or list(waits_for))[0]
    more = f" and {len(waits_for) - 1} more" if len(waits_for) > 1 else ""
    remedy = f"; resume {job_id}, or stop this job" if vain else ""
    return f"runs after {job_id}, which is {state}{more}{remedy}"


def too_early(not_before: float, now: float) -> str:
    """It has a date to start at."""
    date = datetime.fromtimestamp(not_before, tz=UTC)
    return f"is to start after {date:%Y-%m-%d %H:%M:%S} UTC, {within(not_before - now)}"


def over_quota(quota: Quota, who: str, name: str, used: int, needed: int) -> str:
    """Its owner or project holds too much."""
    limit = quota.limits[name]
    return (
        f"the quota of {quota.kind} {who} is {name}={limit}, of which {used} are in use; "
        f"this job needs {needed}"
    )


def never(job: Job, cluster: Cluster) -> str:
    """It would not fit if nothing else ran."""
    if not cluster.nodes:
        return f"needs {job.asked}, and no node is there"
    for bundle, count in job.kinds:
        room = cluster.room(bundle, cluster.total)
        if not room.any():
            return _nowhere(bundle, cluster)
        if int(room.sum()) < count:
            return (
                f"needs {count} x ({bundle}), and the {len(cluster.nodes)} nodes hold "
                f"{int(room.sum())} of them when nothing else runs"
            )
    return f"needs {job.asked}, for which no place was found even if nothing else ran"


def preempting(job: Job, victims: Sequence[str]) -> str:
    """Others make room for it."""
    have = "has" if len(victims) == 1 else "have"
    return f"needs {job.asked}; starts when {some(victims)} {have} saved and left"


def first(job: Job, fits: int, ends: Sequence[str], seconds: float) -> str:
    """Nobody is ahead of it, and there is no room."""
    return (
        f"needs {job.asked}, {_of(fits, job)}; it is the next to start, likely {within(seconds)}, "
        f"when {some(ends)} {'ends' if len(ends) == 1 else 'end'}"
    )


def held(job: Job, ahead: Job, seconds: float) -> str:
    """There is room, but it is needed soon by another."""
    return (
        f"fits now, but would be in the way of {ahead.id} ({ahead.asked}), which is to start "
        f"{within(seconds)}; with a time limit of at most {int(seconds)} s it could start at once"
    )


def behind(job: Job, fits: int, ahead: int, first_of_them: Job, seconds: float) -> str:
    """There is no room, and others come first."""
    jobs = "jobs are" if ahead > 1 else "job is"
    return (
        f"needs {job.asked}, {_of(fits, job)}; {ahead} {jobs} ahead of it, the first "
        f"{first_of_them.id} ({first_of_them.asked}); likely to start {within(seconds)}"
    )


def some(ids: Sequence[str]) -> str:
    """At most three of them, and how many more."""
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(ids[:3]) + more


def within(seconds: float) -> str:
    """E.g. `in 40 s`, `in 12 min`."""
    seconds = max(0.0, seconds)
    if seconds < 120:
        return f"in {seconds:.0f} s"
    if seconds < 2 * HOUR_S:
        return f"in {seconds / 60:.0f} min"
    if seconds < 48 * HOUR_S:
        return f"in {seconds / HOUR_S:.0f} h"
    return f"in {seconds / 24 / HOUR_S:.0f} days"


def short_of(kinds: Kinds) -> str:
    """The resource that a job is most likely to wait for."""
    return "gpus" if any(bundle.gpus for bundle, _ in kinds) else "cpus"


def _of(fits: int, job: Job) -> str:
    every = len(job.needs)
    if every == 1:
        return "which fits on no node now"
    return f"of which {fits} of {every} parts fit now"


def _nowhere(bundle: Bundle, cluster: Cluster) -> str:
    """No node can hold the bundle: what comes nearest, by the share of the need that it lacks."""
    allowed = np.flatnonzero(cluster.allowed(bundle))
    if not len(allowed):
        there = sorted({label for node in cluster.nodes for label in node.labels})
        labels = some(there) or "no labels"
        return f"needs a node with {', '.join(bundle.labels)}; the nodes have {labels}"
    need = need_of(bundle)
    lacks = np.maximum(0, need - cluster.total[allowed]) / np.maximum(need, 1)
    node = cluster.nodes[int(allowed[np.argmin(lacks.sum(axis=1))])]
    has = Bundle(*(getattr(node, name) for name in RESOURCES))
    return f"needs a node with {bundle}; the nearest is {node.name} with {has}"
