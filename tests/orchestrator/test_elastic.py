"""A job on as many workers as there is room for, on a cluster whose nodes go and come.

The nodes are raylets on this machine, with a core each.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.compose import compose_one
from orchestrator.record.lines import read
from tests.orchestrator.commands import TINY, Job
from tests.orchestrator.typed import typed

ROOT = Path(__file__).parents[2]
CLUSTER = """
import os, signal, subprocess, sys
from ray.cluster_utils import Cluster

room = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
cluster = Cluster(initialize_head=True, head_node_args=room)
node = cluster.add_node(**room)
print(cluster.address, flush=True)
for word in sys.stdin:
    if word == "lose\\n":
        [raylet] = [server.process.pid for server in node.all_processes["raylet"]]
        os.kill(raylet, signal.SIGKILL)
    elif word == "add\\n":
        node = cluster.add_node(**room)
    elif word == "drain\\n":
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "wanted")
        command = ("drain-node", "--address", cluster.address, "--node-id", node.node_id, *reason)
        command = (*command, "--deadline-remaining-seconds", "60")
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *command], check=True,
                       stdout=subprocess.DEVNULL)
    print("done", flush=True)
cluster.shutdown()
"""
ELASTIC = ("resources.workers=[1,2]", "resources.cpus_per_worker=1", "stage.micro_batch_size=null")
ENDLESS = ("stage.steps=100000", "optim.schedule=constant", "stage.evaluate_every=100000")
EVERY = 20


@pytest.fixture
def cluster():
    """A cluster of two nodes: its address, and a function that has it lose, add or drain one."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(word):
        process.stdin.write(f"{word}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    with process:
        yield process.stdout.readline().strip(), ask
        process.stdin.close()


def test_a_job_goes_on_with_fewer_workers_and_with_more_and_leaves_on_notice_without_losing_a_step(
    cluster, tmp_path, corpus, monkeypatch
):
    address, ask = cluster
    monkeypatch.chdir(tmp_path)
    # Not on the cluster: what prepares the data there holds room for a while.
    assert typed("data", "prepare", *TINY, f"data.path={corpus}").code == 0
    saving = (f"stage.checkpoint_every={EVERY}", "tracking=none", *ENDLESS)
    job = Job(tmp_path / "job", corpus, *ELASTIC, *saving, RAY_ADDRESS=address)

    def works():
        """Whether steps follow the last start."""
        begun = [*job.events("started"), *job.events("restarting")][-1]["attempt"]
        lines, _ = read(job.run / "metrics.jsonl")
        return sum(line["attempt"] == begun for line in lines) > EVERY

    job.until(lambda: job.steps_done() > EVERY and len(job.workers()) == 2)
    for number, word in enumerate(("lose", "add", "drain", "terminate"), 1):
        if word == "terminate":
            os.kill(job.workers()[0]["pid"], signal.SIGTERM)
        else:
            ask(word)
        job.until(lambda number=number: len(job.events("restarting")) == number)
        job.until(works)
    job.interrupt()
    assert job.wait() == 130, job.screen

    sizes = [
        (event["workers_before"], event["workers"], event["reason"])
        for event in job.events("resized")
    ]
    assert sizes == [
        (2, 1, "node_lost"),
        (1, 2, "there is room for more"),
        (2, 1, "its node is drained"),
    ]
    assert [event["cause"] for event in job.events("failed")] == ["node_lost"]
    lost, *planned = [event["lost_steps"] for event in job.events("restarting")]
    assert lost <= EVERY
    assert planned == [0, 0, 0]
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
