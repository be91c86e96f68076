import time
from dataclasses import asdict

import pytest

from cluster.queue.foretelling import verdict
from cluster.queue.job import Bundle, Job

NODE = {"name": "n0", "resources": {"CPU": 4.0, "memory": 8e9}, "labels": {}}


def told(*jobs):
    """The status of a cluster of one node, as clients see it."""
    shown = []
    for number, (state, cpus, more) in enumerate(jobs):
        job = Job(f"j{number}", "ann", "p", (Bundle(cpus),), ("true",), **more)
        own = asdict(job)
        del own["environment"]
        placement = ["n0"] if state == "running" else []
        rest = {"state": state, "placement": placement, "ran_s": 100.0, "asked": "", "reason": ""}
        shown.append(own | rest)
    return {"user": "bob", "nodes": [NODE], "jobs": shown}


def test_a_job_would_start_at_once_or_when_what_runs_has_ended():
    runs = told(("running", 3, {"limit_s": 700.0}), ("done", 4, {}))
    assert verdict(runs, [], [Bundle(1)]) is None
    waits = verdict(runs, [], [Bundle(2)])
    assert waits.expected_start_s == pytest.approx(time.time() + 600, abs=5)


def test_a_job_comes_after_those_that_wait_already():
    runs = told(("running", 4, {"limit_s": 700.0}), ("waiting", 4, {"expected_s": 1000.0}))
    waits = verdict(runs, [], [Bundle(4)])
    assert waits.expected_start_s is None or waits.expected_start_s > time.time() + 650
    quota = {"kind": "owner", "name": "bob", "cpus": 1}
    assert "quota" in verdict(told(), [quota], [Bundle(2)]).reason
