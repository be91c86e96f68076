"""A job on a Ray cluster that it did not start: a token, two hosts, and no cache in common.

The second host is a network namespace behind a virtual cable, with a disk of its own.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.record.lines import read
from tests.orchestrator.commands import TINY, Job
from tests.orchestrator.typed import typed

ROOT = Path(__file__).parents[2]
STEPS = 120
LONGER = (
    f"stage.steps={STEPS}",
    *(f"stage.{at}_every={STEPS}" for at in ("evaluate", "checkpoint")),
)
TOKEN = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    "RAY_USAGE_STATS_ENABLED": "0",
}
HEAD = """
import json, ray, sys, time
context = ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 * 2**20,
                   _temp_dir=sys.argv[1], _node_ip_address=sys.argv[2], log_to_driver=False)
print(json.dumps(context.address_info["gcs_address"]), flush=True)
while len(ray.nodes()) < 2:
    time.sleep(0.2)
print("two", flush=True)
sys.stdin.read()
ray.shutdown()
"""
FIRST, SECOND = "198.18.77.1", "198.18.77.2"  # of the range for tests of networks (RFC 2544)
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


def ip(words):
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


@pytest.fixture
def cable():
    """Name of our end of a cable; it leads to a network namespace of the same name."""
    name = f"o{os.getpid()}"
    try:
        ip(f"netns add {name}")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a network of one's own needs root and iproute2: {error}")
    try:
        ip(f"link add {name} type veth peer name far netns {name}")
        ip(f"addr add {FIRST}/30 dev {name}")
        ip(f"link set {name} up")
        for words in ("link set lo up", f"addr add {SECOND}/30 dev far", "link set far up"):
            ip(f"-n {name} {words}")
        yield name
    finally:
        ip(f"netns del {name}")  # and the cable with it


@pytest.fixture
def cluster(cable, tmp_path, tmp_path_factory):
    """Address of a cluster whose second node does not see tmp_path/cache."""
    if subprocess.run([*BLIND[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us make a mount namespace (unshare --mount)")
    cache = tmp_path / "cache"
    cache.mkdir()
    folder = str(tmp_path_factory.mktemp("r"))
    with start([sys.executable, "-c", HEAD, folder, FIRST], cache) as head:
        line = head.stdout.readline()
        assert line, head.stderr.read()
        address = json.loads(line)
        far = ("ip", "netns", "exec", cable, *BLIND, str(cache), *NODE)
        with start([*far, f"--node-ip-address={SECOND}", f"--address={address}"], cache) as node:
            try:
                assert head.stdout.readline() == "two\n"
                yield address
            finally:
                node.terminate()
                node.communicate(timeout=30)
        head.communicate(timeout=30)


def test_ranks_train_on_data_that_their_host_did_not_have_through_a_cut_of_5_s(
    cluster, cable, tmp_path, corpus, monkeypatch
):
    cache = tmp_path / "cache"
    job = Job(
        tmp_path / "job",
        corpus,
        *("resources.workers=2", "resources.cpus_per_worker=1", "tracking=none", *LONGER),
        RAY_ADDRESS=cluster,
        ORCHESTRATE_CACHE=str(cache),
        **TOKEN,
    )
    job.until(lambda: job.steps_done() > 3)
    ip(f"link set {cable} down")
    time.sleep(5)
    ip(f"link set {cable} up")
    assert job.steps_done() < STEPS
    assert job.wait() == 0, job.screen
    assert f"does not see {cache}: copying" in job.screen
    assert {worker["ip"] for worker in job.workers()} == {FIRST, SECOND}
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
