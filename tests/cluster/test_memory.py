"""Whether the kernel killed for want of memory: its counters, and a real kill in a real group."""

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from cluster.host.memory import kill_report, kills_now, memory_group

ROOT = Path(__file__).parents[2]
HOST = {"proc/vmstat": "pgfault 12\noom_kill 7\n"}
NONE = str(2**63 - 4096)  # how version 1 says that there is no limit


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("kind", "files", "counter", "limit"),
    [
        (
            "version 2, the limit above the process's own group",
            {
                "proc/self/cgroup": "0::/pod/box\n",
                "sys/fs/cgroup/pod/memory.max": "536870912\n",
                "sys/fs/cgroup/pod/box/memory.max": "max\n",
                "sys/fs/cgroup/pod/box/memory.events": "low 0\noom 9\noom_kill 2\n",
            },
            "sys/fs/cgroup/pod/box/memory.events",
            512 * 2**20,
        ),
        (
            "version 2 in a container that sees its own group only",
            {
                "proc/self/cgroup": "0::/docker/0123\n",
                "sys/fs/cgroup/memory.max": "1073741824\n",
                "sys/fs/cgroup/memory.events": "oom_kill 2\n",
            },
            "sys/fs/cgroup/memory.events",
            2**30,
        ),
        (
            "version 1 beside an empty version 2",
            {
                "proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": NONE,
                "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "536870912\n",
                "sys/fs/cgroup/memory/box/memory.oom_control": "under_oom 0\noom_kill 2\n",
            },
            "sys/fs/cgroup/memory/box/memory.oom_control",
            512 * 2**20,
        ),
        (
            "a host where the process is in no group",
            {"proc/self/cgroup": "0::/\n", "proc/vmstat": "oom_kill 2\n"},
            "proc/vmstat",
            None,
        ),
    ],
)
def test_the_counter_and_the_limit_of_a_process_are_found(tmp_path, kind, files, counter, limit):
    group = memory_group(tree(tmp_path, HOST | files))
    assert (group.counter, group.limit_bytes) == (str(tmp_path / counter), limit)
    assert group.kills == kills_now(group) == 2


def test_only_a_kill_since_the_last_look_is_reported(tmp_path):
    files = {
        "proc/self/cgroup": "0::/box\n",
        "sys/fs/cgroup/box/memory.max": str(512 * 2**20),
        "sys/fs/cgroup/box/memory.peak": str(500 * 2**20),
        "sys/fs/cgroup/box/memory.events": "oom_kill 2\n",
    }
    group = memory_group(tree(tmp_path, files))
    assert kill_report(group, kills_before=2) is None
    Path(group.counter).write_text("oom_kill 3\n")
    assert kill_report(group, 2) == "out of memory, limit 512 MiB, used 500 MiB"
    assert kill_report(group, 3) is None


def test_a_system_that_tells_nothing_is_not_asked(tmp_path):
    assert memory_group(tmp_path) is None
    assert kills_now(None) == 0


LIMIT = 900 * 2**20
GREEDY = """
import json, sys, threading, time
from pathlib import Path
from cluster.gang import Placement, WorkerFailed, run_gang

def eat(payload, channel):
    time.sleep(1.2)  # until it has been polled
    while channel.rank == 1:
        payload.append(bytearray(2**24))
    time.sleep(600)

try:
    run_gang(eat, [], Placement(2, 1), log_folder=Path(sys.argv[1]), stop=threading.Event(),
             on_records=lambda rank, records: None)
except WorkerFailed as failure:
    print(json.dumps([failure.rank, failure.signal, failure.out_of_memory, failure.message]))
"""


@pytest.fixture
def limited():
    """A memory group below our own with LIMIT; gives the file that a process enters it by."""
    group = memory_group()
    own = Path(group.counter).parent if group else Path("/")
    limit = own / "memory.limit_in_bytes"
    name = limit.name if limit.exists() else "memory.max"
    box = own / f"test-{uuid.uuid4().hex[:8]}"
    try:
        box.mkdir()
        (box / name).write_text(str(LIMIT))
    except OSError as error:
        if box.is_dir():
            box.rmdir()
        pytest.skip(f"this machine does not let us make a memory control group: {error}")
    yield box / "cgroup.procs"
    deadline = time.monotonic() + 10
    while (box / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    box.rmdir()


def test_a_worker_killed_by_the_kernel_for_its_memory_is_told_from_one_killed_by_hand(
    limited, tmp_path
):
    # Ray's own monitor would kill at 95% of the limit; what is wanted here is the kernel.
    done = subprocess.run(
        ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(limited), sys.executable, "-c", GREEDY,
         str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "RAY_memory_monitor_refresh_ms": "0", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rank, signal, out_of_memory, message = json.loads(done.stdout)
    assert (rank, signal, out_of_memory) == (1, "SIGKILL", True)
    assert message.startswith(
        "was killed by SIGKILL, by the kernel: out of memory, limit 900 MiB, used 900 MiB"
    )
