"""What is left when a driver ends: nothing of a private Ray, and all of somebody else's cluster.

The drivers are processes of their own, since they are killed or must know only one Ray.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

DRIVER = """
import json, os, sys, threading, time
from pathlib import Path
from cluster.gang import GangRefused, Placement, run_gang

def hang(payload, channel):
    channel.send({"pid": os.getpid()})
    time.sleep(600)

def greet(payload, channel):
    return f"rank {channel.rank}"

def show(rank, records):
    print(json.dumps({"pid": records[0]["pid"]}), flush=True)

def gang(target, workers, address):
    placement = Placement(workers, 1, address=address)
    return run_gang(target, None, placement, log_folder=Path(sys.argv[1]), on_records=show,
                    stop=threading.Event())

address = sys.argv[2] if len(sys.argv) > 2 else None
"""
HANG = DRIVER + "gang(hang, 2, address)"
HEADLESS_THEN_HANG = (
    DRIVER
    + """
import psutil, signal
from cluster.failure import WorkerFailed

def save_when_told(payload, channel):
    channel.send({"pid": os.getpid()})
    while not channel.should_stop():
        time.sleep(0.1)
    channel.send({"pid": "saved"})

def behead(rank, records):
    if rank == 0 and records[0]["pid"] != "saved":
        [head] = [p for p in psutil.Process().children() if p.name() == "gcs_server"]
        head.kill()
    told.extend(record["pid"] for record in records)

told, begun = [], time.monotonic()
try:
    run_gang(save_when_told, None, Placement(2, 1), log_folder=Path(sys.argv[1]),
             on_records=behead, stop=threading.Event())
except WorkerFailed as failure:
    print(json.dumps([told, failure.cause, failure.message, time.monotonic() - begun]), flush=True)
gang(hang, 2, None)
"""
)
REFUSED_THEN_GREET = (
    DRIVER
    + """
begun = time.monotonic()
try:
    gang(greet, 3, address)
except GangRefused as error:
    print(json.dumps({"refused": str(error), "seconds": time.monotonic() - begun}))
print(json.dumps({"results": gang(greet, 2, address)}))
"""
)
HEAD = """
import json, os, ray, sys
context = ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20,
                   _temp_dir=sys.argv[1], log_to_driver=False)
print(json.dumps(context.address_info["gcs_address"]), flush=True)
for line in sys.stdin:
    groups = ray.util.placement_group_table().values()
    print(json.dumps([ray.available_resources().get("CPU"), [g["state"] for g in groups]]),
          flush=True)
ray.shutdown()
"""


def python(text, *arguments, **environment):
    """A Python process that runs the text, with a pipe to and from it."""
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def gone(processes):
    return not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_killed_driver_takes_its_workers_and_its_private_ray_along(tmp_path):
    with python(HANG, tmp_path) as driver:
        pids = [json.loads(driver.stdout.readline())["pid"] for _ in range(2)]
        below = psutil.Process(driver.pid).children(recursive=True)
        assert set(pids) <= {process.pid for process in below}
        folders = list(Path("/tmp").glob(f"orch-{driver.pid}-*"))
        assert len(folders) == 1
        driver.kill()
        assert wait_until(lambda: gone(below)), [p for p in below if not gone([p])]
        assert wait_until(lambda: not folders[0].exists())


def test_a_lost_head_ends_a_gang_that_may_save_and_an_interrupted_driver_leaves_nothing(tmp_path):
    with python(HEADLESS_THEN_HANG, tmp_path) as driver:
        told, cause, message, seconds = json.loads(driver.stdout.readline())
        assert told.count("saved") == 2
        assert cause == "lost"
        assert "lost the head process of Ray, which takes no connections any more" in message
        assert seconds < 50  # Ray would have ended the driver 60 s after it noticed
        for _ in range(2):
            driver.stdout.readline()
        below = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=30)
        assert errors.startswith("Traceback")  # and with no word of Ray's C++
        assert "KeyboardInterrupt" in errors
        assert gone(below)
        assert not list(Path("/tmp").glob(f"orch-{driver.pid}-*"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of one node with 2 CPUs that belongs to another process: (its process, address)."""
    folder = tmp_path_factory.mktemp("c")
    with python(HEAD, folder, RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0") as head:
        line = head.stdout.readline()
        assert line, head.stderr.read()
        yield head, json.loads(line)
        head.communicate(timeout=30)


def ask(head):
    """The cluster's free CPUs, and the states of its placement groups."""
    head.stdin.write("?\n")
    head.stdin.flush()
    return json.loads(head.stdout.readline())


def test_a_gang_too_large_for_a_cluster_is_refused_with_numbers_and_a_fitting_one_runs(
    cluster, tmp_path
):
    head, address = cluster
    with python(REFUSED_THEN_GREET, tmp_path, address, RAY_AUTH_MODE="disabled") as driver:
        output, errors = driver.communicate(timeout=90)
    assert driver.returncode == 0, errors
    refusal, greeting = map(json.loads, output.splitlines())
    assert "resources.workers=3 with 1 CPU(s) each" in refusal["refused"]
    assert "2 CPU(s) in all and room for 2 such worker(s)" in refusal["refused"]
    assert greeting == {"results": ["rank 0", "rank 1"]}
    cpus, groups = ask(head)
    assert cpus == 2
    assert set(groups) == {"REMOVED"}


def test_a_killed_driver_leaves_a_shared_cluster_free_and_up(cluster, tmp_path):
    head, address = cluster
    with python(HANG, tmp_path, address, RAY_AUTH_MODE="disabled") as driver:
        workers = [psutil.Process(json.loads(driver.stdout.readline())["pid"]) for _ in range(2)]
        driver.kill()
        assert wait_until(lambda: gone(workers), 20)
    assert wait_until(lambda: ask(head)[0] == 2, 20)
    assert set(ask(head)[1]) == {"REMOVED"}
