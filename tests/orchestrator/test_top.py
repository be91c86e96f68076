"""The page of a cluster: who holds what, and the curve of a run as its journal tells it."""

import json
import math
from pathlib import Path

import pytest

from cluster.daemons.home import home, user, write
from cluster.queue.client import connect
from cluster.queue.job import Bundle, Job, State
from cluster.queue.keeping import Keeping
from cluster.queue.rows import Step
from orchestrator.verbs import top
from orchestrator.verbs.top import BLOCKS, CURVE, KEPT, Curve, spark
from tests.cluster.queue_server import answering
from tests.orchestrator.typed import refused, typed


def journal(folder, lines):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text("stage: {name: pretrain, steps: 500}\n")
    with (folder / "metrics.jsonl").open("a") as file:
        for step, loss in lines:
            metrics = {"train/loss": loss, "train/tokens_per_second": 1234.5}
            line = {"attempt": 1, "step": step, "time_ms": 0, "metrics": metrics}
            file.write(json.dumps(line) + "\n")


def test_a_curve_is_drawn_between_its_least_and_its_most():
    assert spark([8, 7, 6, 5, 4, 3, 2, 1]) == BLOCKS[::-1]
    assert spark([1.0, 1.0]) == BLOCKS[0] * 2
    assert spark([]) == ""
    assert spark([0, math.nan, 1]) == f"{BLOCKS[0]}!{BLOCKS[-1]}"
    ramp = spark(range(1000))
    assert len(ramp) == CURVE
    assert list(ramp) == sorted(ramp)


def test_a_run_is_followed_as_it_is_written_and_steps_done_again_count_once(tmp_path):
    run = tmp_path / "run"
    journal(run, [(step, 10.0 - step) for step in range(1, 6)])
    curve = Curve(run)
    curve.follow()
    assert (curve.step, curve.total, curve.loss, curve.rate) == (5, 500, 5.0, "1,234 tokens/s")
    journal(run, [(4, 5.5), (5, 4.5)])
    curve.follow()
    assert curve.points == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 5.5), (5, 4.5)]
    journal(run, [(step, 1.0) for step in range(6, 5000)])
    curve.follow()
    assert len(curve.points) < 2 * KEPT, "however long a run is"
    assert curve.step == 4999


@pytest.fixture
def queue(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCHESTRATE_STATE", str(tmp_path / "state"))
    own = home()
    own.admit(user())
    with answering(own) as (address, store):
        plan = {"queue": address, "ray": {"address": "127.0.0.1:6379"}, "since": 0, "daemons": []}
        write(own.plan, plan)
        nodes = [("n0", 2, 0), ("n1", 2, 1)]
        write(
            own.folder / "nodes.json",
            [
                {
                    "name": name,
                    "address": "127.0.0.1",
                    "labels": {},
                    "resources": {"CPU": float(cpus), "GPU": float(gpus), "memory": 2.0**33},
                }
                for name, cpus, gpus in nodes
            ],
        )
        with own.locked("supervisor"):
            yield own, store


def test_the_page_is_printed_once_where_it_is_no_terminal(queue, tmp_path):
    own, store = queue
    assert "no job yet" in typed("top").out
    command = ("true",)
    for name, needs in (("first", [Bundle(cpus=1)]), ("second", [Bundle(gpus=4)])):
        store.add([Job(name, user(), "p", tuple(needs), command)])
    keep(store, "first", "n1")
    journal(tmp_path / "run", [(1, 9.0), (2, 8.0)])
    (own.folder / "jobs" / "first").mkdir(parents=True)
    (own.folder / "jobs" / "first" / "run").symlink_to(tmp_path / "run")
    page = typed("top").out.splitlines()
    assert "1 job at work, 1 waiting" in page[0]
    assert "0 of 2 CPUs in use" in page[1]
    assert page[2].split("  ")[0] == "node n1"
    assert "1 of 2 CPUs in use" in page[2]
    assert page[2].endswith("first")
    assert page[4].endswith(f"2/500  1,234 tokens/s  8     {BLOCKS[-1]}{BLOCKS[0]}")
    assert "waiting" in page[5]
    assert "must be at least 0.1 s" in refused("top", "--every", "0")
    journal(tmp_path / "run", [(step, 8.0) for step in range(3, 60)])
    narrow, wide = (list(top.page(connect().status(), {}, width))[4] for width in (80, 200))
    assert len(narrow) <= 80 < len(wide)
    assert narrow[:60] == wide[:60], "only the curve gives way"


def keep(store, name, node):
    """What a keeper does who admits and sees its driver."""
    keeping = Keeping(store.database, 10.0)
    assert keeping.held()
    placed = {"placement": json.dumps([node]), "attempt": 1}
    keeping.step([Step(store.get(name), State.STARTING, "", placed)])
    keeping.step([Step(store.get(name), State.RUNNING, "", {"started_s": 1.0})])
    keeping.release()


def test_a_run_that_can_not_be_read_shows_nothing(tmp_path):
    curve = Curve(Path(tmp_path / "none"))
    curve.follow()
    assert curve.points == []
