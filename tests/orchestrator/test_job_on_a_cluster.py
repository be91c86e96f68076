"""A job on a Ray cluster that it did not start: a token, two hosts, and no cache in common.

The second host is a network namespace behind a virtual cable, with a disk of its own.
"""

import subprocess
from pathlib import Path

import pytest

from cluster.emulated import emulated_cluster, joined
from orchestrator.record.lines import read
from orchestrator.verbs.drill.network import FAR, NEAR, cable
from orchestrator.verbs.drill.rehearsal import NotPossible
from tests.orchestrator.commands import TINY, Job
from tests.orchestrator.typed import typed

STEPS = 120
LONGER = (
    f"stage.steps={STEPS}",
    *(f"stage.{at}_every={STEPS}" for at in ("evaluate", "checkpoint")),
)
# The second node has another disk where the first has the cache.
BLIND = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')


@pytest.fixture
def link():
    """A cable to another host: a network namespace."""
    try:
        with cable() as link:
            yield link
    except NotPossible as lacks:
        pytest.skip(str(lacks))


@pytest.fixture
def cluster(link, tmp_path):
    """A cluster whose second node does not see tmp_path/cache."""
    if subprocess.run([*BLIND[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us make a mount namespace (unshare --mount)")
    cache = tmp_path / "cache"
    cache.mkdir()
    seen = {"ORCHESTRATE_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    far = (*link.within, *BLIND, str(cache))
    with emulated_cluster(1, ip=NEAR, **seen) as cluster:
        cluster.environment |= seen
        with joined(cluster, ip=FAR, within=far):
            yield cluster


def test_ranks_train_on_data_that_their_host_did_not_have_through_a_cut_of_5_s(
    cluster, link, tmp_path, corpus, monkeypatch
):
    cache = tmp_path / "cache"
    job = Job(
        tmp_path / "job",
        corpus,
        *("resources.workers=2", "resources.cpus_per_worker=1", "tracking=none", *LONGER),
        **cluster.environment,
    )
    job.until(lambda: job.steps_done() > 3)
    link.cut(5)
    assert job.steps_done() < STEPS
    assert job.wait() == 0, job.screen
    assert f"does not see {cache}: copying" in job.screen
    assert {worker["ip"] for worker in job.workers()} == {NEAR, FAR}
    monkeypatch.chdir(tmp_path)
    inline = ("resources=inline", "resources.gpus_per_worker=0", "engine=torch", "tracking=none")
    assert typed("run", *TINY, f"data.path={corpus}", *inline, *LONGER).code == 0
    alone, _ = read(Path("outputs/latest/metrics.jsonl"))
    losses = {
        line["step"]: line["metrics"]["train/loss"]
        for line in alone
        if "train/loss" in line["metrics"]
    }
    assert len(losses) == STEPS
    assert job.metric() == pytest.approx(losses, rel=1e-4)
