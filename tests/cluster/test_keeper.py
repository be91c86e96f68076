import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from cluster.queue.drivers import Node, TransportAway
from cluster.queue.job import ENDED, Attempt, Bundle, Job, State
from cluster.queue.keeper import Keeper
from cluster.queue.processes import Processes
from cluster.queue.store import Store

PROGRAM = Path(__file__).with_name("killed_keeper.py")


class Queue:
    """A keeper with all that it needs, in a folder."""

    def __init__(self, folder, **settings):
        self.store = Store(f"sqlite:///{folder}/queue.db")
        self.drivers = Processes(folder / "attempts", [Node("here", 4)], folder)
        self.keeper = Keeper(self.store, self.drivers, **{"grace_s": 0.5, **settings})

    def submit(self, name, script, cpus=1, **other):
        command = ("/bin/sh", "-c", script)
        self.store.add([Job(name, "ann", "p", (Bundle(cpus),), command, **other)])

    def until(self, condition, limit_s=30):
        """Keep the queue until it is so."""
        end = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < end, [vars(one) for one in self.store.list()]
            self.keeper.tick()
            time.sleep(0.02)

    def state(self, name):
        return self.store.get(name).state

    def has_ended(self, *names):
        return lambda: all(self.state(name) in ENDED for name in names)


@pytest.fixture
def queue(tmp_path):
    queue = Queue(tmp_path)
    yield queue
    for record in queue.store.list():
        if record.state not in ENDED:
            queue.store.stop(record.job.id, "ann")
    queue.until(lambda: all(one.state in ENDED for one in queue.store.list()))
    queue.store.close()


def test_jobs_run_in_order_and_end_as_their_drivers_do(queue, tmp_path):
    queue.submit("good", "sleep 0.2; echo $ORCHESTRATE_JOB $ORCHESTRATE_JOB_ATTEMPT; touch made")
    queue.submit("next", "ls made", after=("good",))
    queue.submit("bad", "echo no such data >&2; exit 2")
    queue.submit("left", "sleep 300 & echo $! > child; exit 0")
    queue.submit("interrupted", "exit 130")
    queue.submit("whole", "test -e made", cpus=4)
    queue.submit("never", "true", cpus=8)
    queue.until(queue.has_ended("good", "next", "bad", "left", "interrupted", "whole"))
    found = {one.job.id: (one.state, one.exit_code, one.message) for one in queue.store.list()}
    assert found.pop("never")[0] is State.WAITING
    assert found == {
        "good": (State.DONE, 0, ""),
        "next": (State.DONE, 0, ""),
        "bad": (State.FAILED, 2, "no such data"),
        "left": (State.DONE, 0, ""),
        "interrupted": (State.STOPPED, 130, ""),
        "whole": (State.DONE, 0, ""),
    }
    assert (
        queue.store.get("never").reason
        == "needs a node with 8 CPUs; the nearest is here with 4 CPUs"
    )
    assert queue.drivers.output("good.1").read_text() == "good 1\n"
    child = int((tmp_path / "child").read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_driver_that_dies_is_started_anew_until_its_restarts_are_used_up(tmp_path):
    over = []
    queue = Queue(tmp_path, over=lambda record: over.append((record.job.id, record.attempt)))
    queue.submit("once", "[ $ORCHESTRATE_JOB_ATTEMPT = 2 ] || kill -9 $$")
    queue.submit("always", "kill -9 $$")
    queue.until(queue.has_ended("once", "always"))
    once, always = queue.store.get("once"), queue.store.get("always")
    assert (once.state, once.attempt, once.deaths) == (State.DONE, 2, 1)
    assert (always.state, always.attempt, always.deaths) == (State.FAILED, 4, 4)
    sentences = [event.sentence for event in queue.store.events("always")]
    assert "its driver died without a result (Killed); restart 3 of 3" in sentences
    assert sentences[-1] == "its driver died without a result, for the 4th time: Killed"
    of = {name: [attempt for job, attempt in over if job == name] for name in ("once", "always")}
    assert of == {"once": [1, 2], "always": [1, 2, 3, 4]}, "each told once"
    queue.store.resume("always", "ann")
    queue.until(lambda: queue.store.get("always").attempt == 5)
    queue.store.stop("always", "ann")
    queue.until(queue.has_ended("always"))
    queue.store.close()


def test_whoever_is_stopped_may_save_first_and_is_gone_after_its_grace(queue):
    saving = "trap 'echo saved > $ORCHESTRATE_JOB.saved; exit 130' TERM; "
    wait = "while :; do sleep 0.02; done"
    queue.submit("weak", saving + f"[ $ORCHESTRATE_JOB_ATTEMPT = 2 ] || {wait}", cpus=3)
    queue.submit("over", saving + wait, limit_s=0.3)
    queue.until(lambda: queue.state("weak") is State.RUNNING)
    queue.submit("strong", "test -e weak.saved", cpus=2, priority=1)
    queue.until(queue.has_ended("strong", "weak", "over"))
    assert queue.state("strong") is queue.state("weak") is State.DONE
    steps = [(event.state, event.sentence) for event in queue.store.events("weak")]
    assert (State.STOPPING, "makes room for strong of priority 1") in steps
    assert State.PREEMPTED in dict(steps)
    over = queue.store.get("over")
    assert over.state is State.FAILED
    assert "limit_s=0.3; resume it for as long again" in over.message
    queue.submit("deaf", "trap '' TERM; " + wait)
    queue.until(lambda: queue.state("deaf") is State.RUNNING)
    queue.store.stop("deaf", "ann")
    queue.until(queue.has_ended("deaf"))
    assert queue.state("deaf") is State.STOPPED


def test_another_keeper_goes_on_with_what_runs_and_an_absent_transport_concludes_nothing(
    queue, tmp_path, monkeypatch
):
    queue.submit("long", "echo begun >> begun; until [ -e go ]; do sleep 0.02; done")
    queue.until(lambda: queue.state("long") is State.RUNNING)

    states, said, seen, ended = queue.drivers.states, [], [], threading.Event()

    def away_twice(ids):
        if len(seen) < 2:
            raise TransportAway("no answer from 10.0.0.1:8265")
        return states(ids)

    def pause(seconds):
        """Of `run`, between two rounds."""
        seen.append(queue.keeper.trouble)
        if len(seen) == 3:
            ended.set()

    with monkeypatch.context() as patched:
        patched.setattr(queue.drivers, "states", away_twice)
        patched.setattr(ended, "wait", pause)
        queue.keeper.run(ended, say=said.append)
    assert said == ["no answer from 10.0.0.1:8265"], "once"
    assert seen[0].what == said[0]
    assert seen[1].since_s == seen[0].since_s <= time.time()
    assert seen[2] is None
    assert queue.state("long") is State.RUNNING
    successor = Queue(tmp_path)
    ran_s = successor.store.get("long").ran_s
    successor.until(lambda: successor.store.get("long").ran_s > ran_s)
    (tmp_path / "go").touch()
    successor.until(successor.has_ended("long"))
    assert successor.state("long") is State.DONE
    assert successor.store.get("long").attempt == 1
    assert (tmp_path / "begun").read_text() == "begun\n"
    successor.keeper.keeping.release()
    successor.store.close()
    queue.keeper.keeping.fence = None  # what a keeper that was released begins with


def test_a_job_that_is_stopped_before_its_driver_could_claim_its_place_never_runs(queue, tmp_path):
    job = Job("late", "ann", "p", (Bundle(1),), ("touch", "late"))
    queue.drivers.stop("late.1", 0)
    queue.drivers.start(Attempt(job, 1, ("here",)))
    assert queue.drivers.states(["late.1"])["late.1"].ended
    time.sleep(0.2)
    assert not (tmp_path / "late").exists()


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.drill)])
def test_nothing_is_lost_and_nothing_starts_twice_if_the_keeper_is_killed_between_any_two_writes(
    tmp_path, every
):
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, str(every)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 went wrong" in done.stdout
