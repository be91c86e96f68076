"""Real pools of two workers on one private Ray that all tests here share, and real SIGKILLs."""

import json
import os
import random
import signal
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from cluster import pulse
from cluster.pool import Placement, PoolFailed, pool, run_pool

TWO = Placement(workers=2, cpus_per_worker=1)


@pytest.fixture
def spread(session, tmp_path):
    def spread(function, arguments, **options):
        return run_pool(function, arguments, TWO, log_folder=tmp_path, session=session, **options)

    return spread


def gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def note(folder, name, **facts):
    """Leave a file with this process's pid, all at once."""
    path = Path(folder) / f"{name}-{os.getpid()}-{time.monotonic_ns()}"
    path.with_suffix(".tmp").write_text(json.dumps({"pid": os.getpid(), **facts}))
    path.with_suffix(".tmp").rename(path.with_suffix(".json"))


def notes(folder, name=""):
    return [json.loads(path.read_text()) for path in sorted(Path(folder).glob(f"{name}*.json"))]


def square(number):
    print(f"a line about {number}", flush=True)
    time.sleep(0.02)
    names = ("EXTRA", "OMP_NUM_THREADS", "RAYON_NUM_THREADS")
    return number**2, os.getpid(), {name: os.environ[name] for name in names}


def test_results_come_in_order_of_the_arguments_whichever_worker_was_first(spread, tmp_path):
    seen = {}
    results = spread(square, range(40), env={"EXTRA": "given"}, on_result=seen.__setitem__)
    assert [result[0] for result in results] == [number**2 for number in range(40)]
    assert seen == dict(enumerate(results))
    pids = {pid for _, pid, _ in results}
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert results[0][2] == {"EXTRA": "given", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    logs = "".join((tmp_path / f"worker-{n}.log").read_text() for n in range(2))
    assert sorted(logs.split("\n")) == sorted(["", *(f"a line about {n}" for n in range(40))])


def test_a_pool_goes_on_with_the_workers_that_find_room_and_may_be_used_again(session, tmp_path):
    env = {"EXTRA": "given"}
    with pool(Placement(1, 1), log_folder=tmp_path / "a", session=session, env=env) as first:
        (_, pid, _), *_ = first.run(square, range(3))
        with pool(TWO, log_folder=tmp_path / "b", session=session, env=env) as second:
            results = second.run(square, range(10))
            assert len({pid for _, pid, _ in results}) == 1
            first.end()
            assert [number for number, _, _ in second.run(square, range(50, 90))] == [
                number**2 for number in range(50, 90)
            ]
        assert gone(pid)


def test_without_units_nothing_starts(tmp_path):
    assert run_pool(square, [], TWO, log_folder=tmp_path) == []


def slow_double(task):
    folder, number = task
    note(folder, "begun", number=number)
    time.sleep(0.15)
    return number * 2


def test_workers_killed_at_random_moments_are_replaced_and_no_unit_is_lost(spread, tmp_path):
    (folder := tmp_path / "units").mkdir()
    rng, killed, over, said = random.Random(0), set(), threading.Event(), []

    def kill_now_and_then():
        while len(killed) < 4 and not over.wait(rng.uniform(0.1, 0.5)):
            alive = [n["pid"] for n in notes(folder) if not gone(n["pid"])]
            if alive:
                os.kill(alive[-1], signal.SIGKILL)
                killed.add(alive[-1])

    thread = threading.Thread(target=kill_now_and_then)
    thread.start()
    tasks = [(str(folder), number) for number in range(40)]
    results = spread(slow_double, tasks, say=said.append, attempts=5)
    over.set()
    thread.join()
    assert results == [number * 2 for number in range(40)]
    assert len(killed) == 4
    deaths = [line for line in said if "wait for free CPUs" not in line]  # as on a busy host
    assert 1 <= len(deaths) <= 4
    assert all("was killed by SIGKILL" in line and "done again" in line for line in deaths)
    # A killed worker has at most two units: only these can be begun twice.
    assert 40 <= len(notes(folder, "begun")) <= 40 + 2 * len(killed)
    assert all(gone(n["pid"]) for n in notes(folder))


def freeze_once(task):
    folder, number = task
    if number == 1 and not notes(folder, "frozen"):
        note(folder, "frozen")
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(60)  # another thread may take the signal while this one goes on for a moment
    return number


def test_a_worker_that_is_frozen_is_replaced_and_its_units_are_done_again(
    spread, tmp_path, monkeypatch
):
    monkeypatch.setattr(pulse, "SILENT_AFTER_S", 2.0)
    (folder := tmp_path / "units").mkdir()
    said = []
    tasks = [(str(folder), number) for number in range(4)]
    assert spread(freeze_once, tasks, say=said.append) == [0, 1, 2, 3]
    assert len(said) == 1
    assert "has not answered for" in said[0]
    assert "it is replaced, and its work done again" in said[0]
    assert gone(notes(folder, "frozen")[0]["pid"])


class Unit:
    """A task that tells its name; number 3 kills whoever carries it out."""

    def __init__(self, number):
        self.number = number

    def __str__(self):
        return f"unit {self.number} of corpus.jsonl"


def poison(unit):
    if unit.number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit.number


def test_a_unit_that_ends_each_of_its_workers_is_named_with_the_deaths(spread):
    with pytest.raises(PoolFailed) as caught:
        spread(poison, [Unit(number) for number in range(6)])
    message = str(caught.value)
    assert "unit 3 of corpus.jsonl: each of 3 workers that tried it died" in message
    assert message.count("was killed by SIGKILL") == 3


class OwnError(ValueError):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")  # unpickling calls it with one argument


def fail_at_5(task):
    folder, number = task
    note(folder, "begun")
    if number == 5:
        raise KeyError("row 17 of a.jsonl")
    time.sleep(60 if number > 5 else 0)


def test_an_exception_ends_the_pool_at_once_and_is_raised_as_itself(spread, tmp_path):
    (folder := tmp_path / "units").mkdir()
    begun = time.monotonic()
    with pytest.raises(KeyError, match=r"row 17 of a.jsonl") as caught:
        spread(fail_at_5, [(str(folder), number) for number in range(10)])
    assert time.monotonic() - begun < 15
    assert "in fail_at_5" in "".join(caught.value.__notes__)
    assert all(gone(n["pid"]) for n in notes(folder))


def fail_oddly(number):
    raise OwnError(number, "that")


def test_an_exception_that_can_not_travel_is_told_in_words(spread):
    with pytest.raises(RuntimeError, match="OwnError: 7 and that"):
        spread(fail_oddly, [7])


def sleep_with_a_child(folder):
    child = subprocess.Popen(["sleep", "600"])
    note(folder, "begun", child=child.pid)
    time.sleep(600)


def test_the_stop_event_ends_workers_and_what_they_started(spread, tmp_path):
    (folder := tmp_path / "units").mkdir()
    stop = threading.Event()

    def stop_when_both_work():
        while len(notes(folder)) < 2:
            time.sleep(0.05)
        stop.set()

    threading.Thread(target=stop_when_both_work, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        spread(sleep_with_a_child, [str(folder)] * 4, stop=stop)
    pids = [n[key] for n in notes(folder) for key in ("pid", "child")]
    assert len(pids) == 4
    assert all(gone(pid) for pid in pids)
