"""Whose process a pid is: workers are looked for in the pid namespace that they run in."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.ending import end_workers
from cluster.errands import on_nodes
from cluster.host.memory import MemoryGroup
from cluster.host.processes import process_space, started
from cluster.post_mortem import memory_report

ROOT = Path(__file__).parents[2]
TOLD = "from cluster.host.processes import process_space; print(process_space())"


def space_in(*namespaces):
    """What a process says that runs in namespaces of its own."""
    command = ["unshare", *namespaces, sys.executable, "-c", TOLD]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if "unshare" in done.stderr:
        pytest.skip(f"this machine does not let us make a namespace: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_pid_namespace_is_a_space_of_its_own_and_a_host_name_is_not():
    assert space_in("--uts") == process_space()
    assert space_in("--pid", "--fork", "--mount-proc") != process_space()


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def facts(sleeper, tmp_path):
    """A worker on a host that is called as this one is, with the pid of a process of this one."""
    counter = tmp_path / "memory.events"
    counter.write_text("oom_kill 3\n")
    return {
        "host": os.uname().nodename,
        "node": "1" * 56,  # gone
        "pid": sleeper.pid,
        "started": started(sleeper.pid),
        "memory": MemoryGroup(str(counter), kills=2),
    }


def sleep_and_tell(seconds):
    time.sleep(seconds)
    return seconds


def test_a_node_that_does_not_answer_in_time_is_left_out(session):
    ray = session.wait()
    [node] = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    assert on_nodes(ray, {node: [0]}, sleep_and_tell) == {node: 0}
    begun = time.monotonic()
    assert on_nodes(ray, {node: [3]}, sleep_and_tell, limit_s=0.5) == {}
    assert time.monotonic() - begun < 2
    assert on_nodes(ray, {node: ["raises"]}, sleep_and_tell) == {}
    assert on_nodes(ray, {}, sleep_and_tell) == {}


def test_only_workers_of_this_space_are_killed_and_accounted_for_here(session, facts, gone):
    ray = session.wait()
    stranger, own = facts | {"space": "another"}, facts | {"space": process_space()}
    assert memory_report(ray, stranger, None) is None
    end_workers(ray, [], [stranger])
    assert not gone(facts["pid"])
    assert memory_report(ray, own, None) == "out of memory"
    end_workers(ray, [], [own])
    assert gone(facts["pid"])
