"""`orchestrate jobs`: the jobs of the cluster, the newest last, and why those wait that do."""

import argparse
import time
from collections.abc import Sequence

from cluster.queue.client import connect
from cluster.queue.job import ENDED
from data.messages import clock
from orchestrator.terminal import columns, say

HEADINGS = ("job", "owner", "state", "attempt", "since", "needs", "run or reason")


def main(argv: Sequence[str]) -> int:
    """Print them; returns the exit code. Raises QueueError if no queue answers."""
    options = parser().parse_args(argv)
    told = connect().status()
    jobs = [job for job in told["jobs"] if options.all or job["state"] not in ENDED]
    jobs = jobs or told["jobs"][-options.most :]
    if options.mine:
        jobs = [job for job in jobs if job["owner"] == told["user"]]
    if not jobs:
        say("no job yet: orchestrate submit")
        return 0
    rows = [HEADINGS]
    for job in jobs[-options.most :]:
        begun = job["ended_s"] or job["started_s"] or job["submitted_s"]
        waits = job["state"] in ("waiting", "preempted")
        last = job["reason"] if waits else job["run"] or job["message"]
        age = clock(max(0.0, time.time() - begun))
        attempt = str(job["attempt"] or "-")
        rows.append((job["id"], job["owner"], job["state"], attempt, age, job["asked"], last))
    for line in columns(rows):
        say(line, hang=4)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate jobs", description=__doc__)
    new.add_argument("--all", action="store_true", help="also those that have ended")
    new.add_argument("--mine", action="store_true", help="your own alone")
    new.add_argument("--most", type=int, default=40, help="the newest so many [%(default)s]")
    return new
