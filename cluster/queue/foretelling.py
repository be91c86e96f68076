"""When a job that nobody has handed in yet would start, by the rules that those who wait go by."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from cluster.queue.admission import Candidate, Verdict, decide
from cluster.queue.job import PLACED, QUEUED, Bundle, Job, Quota, State
from cluster.queue.preemption import Holding
from cluster.queue.ray_jobs import node

PROJECT = "default"  # as `orchestrate submit` has it


def verdict(
    told: Mapping[str, Any], quotas: Sequence[Mapping[str, Any]], needs: Sequence[Bundle]
) -> Verdict | None:
    """Why a job of so many needs would wait, and about until when; None: it would start at once.

    Args:
        told: the status of the cluster, see `Client.status`.
        quotas: see `Client.quotas`.
        needs: of the job, which comes after all that wait and has priority 0.
    """
    states = {one["id"]: State(one["state"]) for one in told["jobs"]}
    running, waiting = [], []
    for seq, one in enumerate(told["jobs"]):
        job, state = _job(one), states[one["id"]]
        if state in PLACED:
            stopping = state is State.STOPPING
            running.append(Holding(job, tuple(one["placement"]), one["ran_s"], stopping))
        elif state in QUEUED:
            first = [(other, states.get(other, State.DONE)) for other in job.after]
            undone = tuple(each for each in first if each[1] is not State.DONE)
            waiting.append(Candidate(job, seq, one["ran_s"], undone))
    new = Job("planned", told["user"], PROJECT, tuple(needs), ("orchestrate",))
    found = decide(
        [node(own) for own in told["nodes"]],
        running,
        [*waiting, Candidate(new, len(states))],
        [Quota(**own) for own in quotas],
        time.time(),
    )
    return found.verdicts.get(new.id)


def _job(told: Mapping[str, Any]) -> Job:
    """The job that a client is told of; its environment it is not."""
    own = {one.name: told[one.name] for one in fields(Job) if one.name in told}
    return Job.from_json(json.dumps(own))
