"""`orchestrate status [ID]`: what runs where and since when, or why a job waits."""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cluster.daemons import control
from cluster.daemons.home import Home, home
from cluster.daemons.ray_nodes import LOOPBACK
from cluster.queue.client import connect
from cluster.queue.job import PLACED, QueueError
from data.messages import clock, counted
from orchestrator.terminal import columns, say

SHOWN = 12  # events of a job


def main(argv: Sequence[str]) -> int:
    """Print it; returns the exit code. Raises QueueError if there is nothing, or no such job."""
    options = parser().parse_args(argv)
    if options.id is not None:
        for line in of_job(connect().get(options.id)):
            say(line)
        return 0
    own = home(make=False)
    if own.folder.is_dir() and control.mend(own):
        say("the supervisor had died; another one watches now")
    facts = control.look(own)
    for line in _daemons(own, facts):
        say(line)
    if facts.plan.get("join"):
        return 0
    try:
        told = connect().status()
    except QueueError as error:
        if not facts.plan:
            raise
        say(f"queue: {error}")
        return 1
    for line in [*_trouble(told, own), *_cluster(told)]:
        say(line)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate status", description=__doc__)
    new.add_argument("id", nargs="?", help="of a job; without it, of the cluster")
    return new


def of_job(job: Mapping[str, Any]) -> Iterator[str]:
    """A job: where it stands, why, what happened to it, what to type."""
    name, state = job["id"], job["state"]
    yield f"{name} of {job['owner']}: {state}; needs {job['asked']}"
    if state in ("waiting", "preempted"):
        yield f"waits: {job['reason']}"
        if job["expected_start_s"]:
            left = max(0.0, job["expected_start_s"] - time.time())
            yield f"expected to start in {clock(left)}"
    if job["message"]:
        yield f"ended: {job['message']}"
    if job["run"]:
        yield f"run folder: {job['run']}"
    for event in job["events"][-SHOWN:]:
        at = time.strftime("%H:%M:%S", time.localtime(event["at_s"]))
        attempt = f" (attempt {event['attempt']})" if event["attempt"] > 1 else ""
        yield f"  {at}  {event['state']}{attempt}: {event['sentence']}"
    if state in ("failed", "stopped"):
        yield f"go on:  orchestrate resume {name}"
    elif state != "done":
        yield f"watch:  orchestrate logs {name} -f"


def used_by_node(jobs: Iterable[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """CPUs and GPUs that jobs hold, by name of node."""
    used: dict[str, Counter[str]] = defaultdict(Counter)
    for job in jobs:
        if job["state"] in PLACED:
            for node, needs in zip(job["placement"], job["needs"], strict=True):
                used[node].update({"CPU": needs["cpus"], "GPU": needs["gpus"]})
    return used


def _daemons(own: Home, facts: control.Facts) -> Iterator[str]:
    """What of the cluster is on this machine."""
    plan = facts.plan
    if not plan:
        return
    where = f"node of the cluster at {plan['join']}" if plan.get("join") else "cluster"
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan["since"]))
    yield f"{where} on this machine since {since}; its files: {own.folder}"
    at = {
        "ray": plan.get("ray", {}).get("address", ""),
        "mlflow": plan.get("mlflow", {}).get("page", ""),
        "queue": plan.get("queue", ""),
    }
    rows: list[tuple[str, ...]] = []
    for daemon in plan["daemons"]:
        name = daemon["name"]
        standing = facts.daemons.get(name)
        if standing is None:
            rows.append((name, "not started", at[name], "", ""))
            continue
        up = "up" if standing.up else "starting"
        age = f"since {clock(time.time() - standing.since)}" if standing.pid else ""
        again = f"restarted {counted(standing.restarts, 'time')}, last: {standing.ended}"
        process = f"process {standing.pid}" if standing.pid else ""
        rows.append((name, f"{up} {age}", at[name], process, again if standing.restarts else ""))
    yield from columns(rows)
    if own.database.exists() and "database" in plan:
        yield f"the queue keeps its jobs in {plan['database']}"
    if plan.get("host", LOOPBACK) != LOOPBACK:
        address, token = plan["ray"]["address"], own.ray_token
        yield f"on another host, with a copy of {token} that only its user can read:"
        yield f"  RAY_AUTH_TOKEN_PATH=COPY orchestrate up --join {address}"


def _trouble(told: Mapping[str, Any], own: Home) -> Iterator[str]:
    """What keeps the queue from its work: what, since when, what to type."""
    if trouble := told["trouble"]:
        since = clock(max(0.0, time.time() - trouble["since_s"]))
        yield f"TROUBLE for {since}: {trouble['what']}"
        yield (
            "  no job starts and no end is noticed meanwhile; jobs that run go on. What died is "
            f"started again by itself; if it does not come back, {own.folder}/logs says why, and "
            "`orchestrate down` and `orchestrate up` begin anew, with all jobs kept"
        )


def _cluster(told: Mapping[str, Any]) -> Iterator[str]:
    """Nodes with what is free on each, and how many jobs are where."""
    used = used_by_node(told["jobs"])
    rows = []
    for node in told["nodes"]:
        row = [f"node {node['name']}", node["address"]]
        for kind in ("CPU", "GPU"):
            has = int(node["resources"].get(kind, 0))
            free = has - used[node["name"]][kind]
            row.append(f"{free} of {counted(has, kind)} free")
        rows.append(row)
    yield from columns(rows) if rows else ["no node is there yet"]
    states = Counter(job["state"] for job in told["jobs"])
    shown = ", ".join(f"{many} {state}" for state, many in states.items())
    yield f"jobs: {shown}; orchestrate jobs" if shown else "no job yet: orchestrate submit"
