"""A private Ray that is given up while it starts, and the folders of those whose owner died."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.connection import folder, guard

ROOT = Path(__file__).parents[2]

IMPATIENT = """
import glob, json, os, psutil, signal, sys, threading, time
from pathlib import Path
from cluster.gang import Placement, run_gang
from cluster.connection.session import Session
import ray

def left():
    folders = glob.glob(f"/tmp/orch-{os.getpid()}-*")
    return folders + [child.name() for child in psutil.Process().children(recursive=True)]

def seven(payload, channel):
    return 7

def look_around(workers):
    [folder] = Path("/tmp").glob(f"orch-{os.getpid()}-*")
    told.append(oct(folder.stat().st_mode & 0o777))
    started = [process.cmdline() for process in psutil.Process().children(recursive=True)]
    names = [[Path(part).name for part in command] for command in started]
    told.append(sorted(next(n for n in command if n.endswith((".py", "server", "raylet")))
                       for command in names if not command[0].startswith("ray::")))
    os.kill(os.getpid(), signal.SIGTERM)

def gang(stop, kill):
    return run_gang(seven, None, Placement(1, 1), log_folder=Path(sys.argv[1]), stop=stop,
                    kill=kill, on_records=lambda rank, records: None, on_started=look_around)

told = []
for name, moment in (("stop", 0.1), ("kill", 0.4)):
    events = {"stop": threading.Event(), "kill": threading.Event()}
    threading.Timer(moment, events[name].set).start()
    begun = time.monotonic()
    try:
        gang(**events)
        told.append("it ran")
    except KeyboardInterrupt:
        told.append(time.monotonic() - begun - moment)
    told.append(left())
init = ray.init

def init_late(**settings):
    ray.init = init
    raise ValueError("Can't find a `node_ip_address.json` file")  # what Ray says of a time-out

ray.init = init_late
signal.signal(signal.SIGTERM, lambda *_: told.append("SIGTERM"))
told.append(gang(threading.Event(), threading.Event()))
print(json.dumps(told))
"""


def test_ray_is_given_up_at_once_while_it_starts_and_can_be_started_again(tmp_path):
    """What starts last is tried twice, is nobody else's, and leaves SIGTERM to its owner."""
    arguments = [sys.executable, "-c", IMPATIENT, str(tmp_path)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    after_stop, left_then, after_kill, left_at_last, mode, programs, heard, results = told
    assert after_stop < 4
    assert after_kill < 4
    assert left_then == left_at_last == []
    assert (mode, heard, results) == ("0o700", "SIGTERM", [7])
    assert programs == ["gcs_server", "guard.py", "raylet", *["stand_in.py"] * 2]
    assert done.stderr == ""
    assert "it is tried again: Can't find" in (tmp_path / "ray.log").read_text()


OWNER = """
import sys, time
from pathlib import Path
from cluster.connection import folder, guard
folder.TEMPORARY = Path(sys.argv[1])
with folder.ray_folder() as own:
    print(own, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "TEMPORARY", tmp_path)
    return tmp_path


def owner(temporary, *prefix):
    """A process that owns a folder, and the folder."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-c", OWNER, str(temporary)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_the_folder_of_a_killed_owner_is_removed_and_that_of_a_living_one_is_kept(temporary):
    (dead, left), (living, kept) = owner(temporary), owner(temporary)
    with dead, living:
        dead.kill()
        dead.wait()
        folder.remove_stale_folders()
        assert list(temporary.iterdir()) == [kept]
        assert left != kept
        living.kill()


def test_an_owner_in_another_pid_namespace_keeps_its_folder(temporary):
    container = ("unshare", "--pid", "--fork", "--kill-child")
    if subprocess.run([*container, "true"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a pid namespace (unshare --pid)")
    process, kept = owner(temporary, *container)
    with process:
        assert kept.name.split("-")[1] in ("1", "2")  # a number that means nothing out here
        folder.remove_stale_folders()
        assert kept.exists()
        process.kill()


def test_a_folder_without_a_lock_is_removed_when_it_is_old(temporary):
    for name in ("orch-1-new", "orch-1-old", "other-1-old"):
        (temporary / name).mkdir()
    for name in ("orch-1-old", "other-1-old"):
        os.utime(temporary / name, (time.time() - 7200,) * 2)
    folder.remove_stale_folders()
    assert {path.name for path in temporary.iterdir()} == {"orch-1-new", "other-1-old"}


def sleeper(session):
    """A process that was started as Ray starts a worker of that folder, and still imports."""
    command = [sys.executable, "-c", "import time; time.sleep(600)", f"--session-dir={session}/1"]
    return subprocess.Popen(command)


def test_a_worker_that_was_being_started_ends_with_its_killed_driver(tmp_path):
    """It is in no list of processes, and would make the folder anew when it has imported Ray."""
    (tmp_path / "orch-1").mkdir()
    with sleeper(tmp_path / "orch-1") as late, sleeper(tmp_path / "orch-10") as another:
        told = subprocess.run(
            [sys.executable, "-P", guard.__file__, str(tmp_path / "orch-1")],
            stdin=subprocess.DEVNULL,  # the driver is no more
        )
        assert (told.returncode, late.wait(5), another.poll()) == (0, -signal.SIGKILL, None)
        assert list(tmp_path.iterdir()) == []
        another.kill()
