"""A job on a Ray cluster that it did not start: a token, two nodes, and no cache in common."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.record.lines import read
from tests.orchestrator.commands import STEPS, TINY, Job
from tests.orchestrator.typed import typed

ROOT = Path(__file__).parents[2]
TOKEN = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_USAGE_STATS_ENABLED": "0",
}
HEAD = """
import json, ray, sys, time
context = ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20,
                   _temp_dir=sys.argv[1], log_to_driver=False)
print(json.dumps(context.address_info["gcs_address"]), flush=True)
while len(ray.nodes()) < 2:
    time.sleep(0.2)
print("two", flush=True)
sys.stdin.read()
ray.shutdown()
"""
# The second node has another disk where the first has the cache.
BLIND = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"')
NODE = (
    *(sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=1", "--block"),
    *("--disable-usage-stats", "--object-store-memory=100000000"),
)


def start(arguments, cache):
    return subprocess.Popen(
        arguments,
        cwd=ROOT,
        env={**os.environ, **TOKEN, "ORCHESTRATE_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def cluster(tmp_path, tmp_path_factory):
    """Address of a cluster whose second node does not see tmp_path/cache."""
    if subprocess.run([*BLIND[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us make a mount namespace (unshare --mount)")
    cache = tmp_path / "cache"
    cache.mkdir()
    with start([sys.executable, "-c", HEAD, str(tmp_path_factory.mktemp("r"))], cache) as head:
        line = head.stdout.readline()
        assert line, head.stderr.read()
        address = json.loads(line)
        with start([*BLIND, str(cache), *NODE, f"--address={address}"], cache) as node:
            try:
                assert head.stdout.readline() == "two\n"
                yield address
            finally:
                node.terminate()
                node.communicate(timeout=30)
        head.communicate(timeout=30)


def test_ranks_train_on_data_that_their_host_did_not_have(cluster, tmp_path, corpus, monkeypatch):
    cache = tmp_path / "cache"
    job = Job(
        tmp_path / "job",
        corpus,
        *("resources.workers=2", "resources.cpus_per_worker=1", "tracking=none"),
        RAY_ADDRESS=cluster,
        ORCHESTRATE_CACHE=str(cache),
        **TOKEN,
    )
    assert job.wait() == 0, job.screen
    assert f"does not see {cache}: copying" in job.screen
    assert len({worker["node"] for worker in job.workers()}) == 2
    monkeypatch.chdir(tmp_path)
    inline = ("resources=inline", "resources.gpus_per_worker=0", "engine=torch", "tracking=none")
    assert typed("run", *TINY, f"data.path={corpus}", *inline).code == 0
    alone, _ = read(Path("outputs/latest/metrics.jsonl"))
    losses = {
        line["step"]: line["metrics"]["train/loss"]
        for line in alone
        if "train/loss" in line["metrics"]
    }
    assert len(losses) == STEPS
    assert job.metric() == pytest.approx(losses, rel=1e-4)
