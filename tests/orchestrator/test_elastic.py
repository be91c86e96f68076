"""A job on as many workers as there is room for, on a cluster whose nodes go and come.

The nodes are raylets on this machine, with a core each.
"""

import os
import signal
from pathlib import Path

import pytest

from cluster.emulated import emulated_cluster
from orchestrator.compose import compose_one
from orchestrator.record.lines import read
from tests.orchestrator.commands import TINY, Job
from tests.orchestrator.typed import typed

ELASTIC = ("resources.workers=[1,2]", "resources.cpus_per_worker=1", "stage.micro_batch_size=null")
ENDLESS = ("stage.steps=100000", "optim.schedule=constant", "stage.evaluate_every=100000")
EVERY = 20


def test_a_job_goes_on_elsewhere_with_fewer_and_with_more_workers_and_leaves_without_losing_a_step(
    tmp_path, corpus, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    saving = (f"stage.checkpoint_every={EVERY}", "tracking=none", *ENDLESS)
    with emulated_cluster(nodes=3) as cluster:
        job = Job(tmp_path / "job", corpus, *ELASTIC, *saving, **cluster.environment)

        def node():
            """One of those that the job is on, and not the head."""
            used = {worker["node"] for worker in job.workers()}
            return next(own for own in cluster.nodes[:0:-1] if own.node in used)

        def works():
            """Whether steps follow the last start."""
            begun = [*job.events("started"), *job.events("restarting")][-1]["attempt"]
            lines, _ = read(job.run / "metrics.jsonl")
            return sum(line["attempt"] == begun for line in lines) > EVERY

        job.until(lambda: job.steps_done() > EVERY and len(job.workers()) == 2)
        faults = (
            lambda: os.kill(node().raylet, signal.SIGKILL),  # there is a third one
            lambda: os.kill(node().raylet, signal.SIGKILL),
            cluster.add,
            lambda: cluster.drain(node().node),
            lambda: os.kill(job.workers()[0]["pid"], signal.SIGTERM),
        )
        for number, fault in enumerate(faults, 1):
            fault()
            job.until(lambda number=number: len(job.events("restarting")) == number)
            job.until(works)
        job.interrupt()
        assert job.wait() == 130, job.screen
        assert cluster.left() == []

    sizes = [
        (event["workers_before"], event["workers"], event["reason"])
        for event in job.events("resized")
    ]
    assert sizes == [
        (2, 1, "node_lost"),
        (1, 2, "there is room for more"),
        (2, 1, "its node is drained"),
    ]
    assert [event["cause"] for event in job.events("failed")] == ["node_lost", "node_lost"]
    lost = [event["lost_steps"] for event in job.events("restarting")]
    assert max(lost[:2]) <= 2 * EVERY, "a save that was under way is none yet"
    assert lost[2:] == [0, 0, 0]
    assert [event["notice"] for event in job.events("preempted")] == [
        "its node is drained",
        "it got SIGTERM",
    ]
    losses, done = job.metric(), job.result["steps"]
    assert list(losses) == list(range(1, done + 1)), "each step once"

    inline = ("resources=inline", "resources.gpus_per_worker=0", "engine=torch", "tracking=none")
    words = (*TINY, f"data.path={corpus}", *inline, *ENDLESS, f"stage.steps={done}")
    assert typed("run", *words, f"stage.evaluate_every={done}").code == 0
    lines, _ = read(Path("outputs/latest/metrics.jsonl"))
    alone = {r["step"]: r["metrics"]["train/loss"] for r in lines if "train/loss" in r["metrics"]}
    assert losses == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(
    ("words", "sizes", "micro"),
    [
        ("resources.workers=[1,4] stage.global_batch_size=12", (4, 3, 2, 1), (3, 2, 3, 3)),
        ("resources.workers=[2,8] stage.global_batch_size=12", (6, 4, 3, 2), (2, 1, 2, 2)),
        (
            "resources.workers=[1,4] stage.global_batch_size=12 stage.micro_batch_size=3",
            (4, 2, 1),
            (3, 3, 3),
        ),
        ("resources.workers=3 stage.global_batch_size=12", (3,), (4,)),
    ],
)
def test_a_range_of_workers_means_those_that_divide_the_batch_and_no_larger_micro_batch(
    words, sizes, micro
):
    job = compose_one(words.split())
    assert job.sizes == sizes
    cut = [job.on(size) for size in sizes]
    assert tuple(own.batch.micro for own in cut) == micro
    assert {own.batch.micro * own.batch.accumulation_steps * own.workers for own in cut} == {12}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("resources.workers=abc", "resources.workers=abc must be a whole number, or two of them"),
        ("resources.workers=[4,2]", "must begin with the fewer workers; try resources.workers="),
        ("resources.workers=[0,2]", "resources.workers=0 must be at least 1"),
        ("resources.workers=[5,7] stage.global_batch_size=13", "try resources.workers=1"),
        ("resources=inline resources.workers=[1,2]", "has as many as torchrun has started"),
        ("resources.wait_minutes=-1", "resources.wait_minutes=-1.0 must be at least 0"),
    ],
)
def test_a_number_of_workers_that_cannot_be_is_refused_with_what_to_type(words, said):
    with pytest.raises(ValueError, match=r"workers|wait_minutes") as caught:
        compose_one(words.split())
    assert said in str(caught.value)


def test_the_plan_of_a_range_names_the_sizes():
    answer = typed("plan", "resources.workers=[1,2]", "engine.zero_stage=1")
    assert answer.code == 0, answer
    assert "workers     1 or 2 x CPU" in answer.out
