"""Services of two replicas that hold weights, and real SIGKILLs."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cluster import pulse
from cluster.service import Gone, Placement, ServiceFailed, service

TWO = Placement(workers=2, cpus_per_worker=1)


class Scale:
    """A toy engine: multiplies by weights that it is given."""

    def __init__(self, bias, index):
        if bias == "a bad one":
            raise ValueError(f"bias of {index} is a bad one")
        self.bias, self.index, self.weights, self.calls = bias, index, None, 0

    def load(self, arrays):
        self.weights = arrays["weights"]

    def load_slowly(self, arrays):
        Path(arrays["begun"]).touch()
        time.sleep(0.5)
        self.load(arrays)

    def load_bias(self, bias):
        self.bias = bias

    def apply(self, inputs, repeat=1):
        self.calls += 1
        for _ in range(repeat):
            inputs = inputs * self.weights + self.bias
        return inputs

    def facts(self):
        child = subprocess.Popen(["sleep", "600"]).pid
        return {"index": self.index, "pid": os.getpid(), "calls": self.calls, "child": child}

    def slow(self, seconds):
        time.sleep(seconds)
        return self.index, os.getpid(), time.monotonic()

    def die(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def fail(self, row):
        raise KeyError(row)

    def lose_a_child_once(self, marker):
        if not Path(marker).exists():
            Path(marker).touch()
            raise Gone("lost a child")
        return self.index, os.getpid()

    def is_read_only(self):
        return not self.weights.flags.writeable


@pytest.fixture
def scales(session, tmp_path, gone):
    """A service of two toys; nothing of it may be left after the test."""
    said = []
    with service(Scale, 1.0, TWO, log_folder=tmp_path, session=session, say=said.append) as scales:
        scales.said = said
        yield scales
        facts = scales.call_all(Scale.facts)
    for pid in (one[key] for one in facts for key in ("pid", "child")):
        assert gone(pid)


def test_replicas_have_state_and_are_called_alone_together_or_whoever_is_free(scales):
    weights = np.arange(1.0, 1001.0)
    scales.broadcast(Scale.load, {"weights": weights})
    inputs = np.full(1000, 2.0)
    once, twice = inputs * weights + 1, (inputs * weights + 1) * weights + 1
    first, second = scales.replicas
    np.testing.assert_array_equal(first.apply(inputs), once)
    np.testing.assert_array_equal(first.apply(inputs, repeat=2), twice)
    np.testing.assert_array_equal(second.apply(inputs), once)
    np.testing.assert_array_equal(scales.call_any(Scale.apply, inputs, repeat=2), twice)
    assert [one["index"] for one in scales.call_all(Scale.facts)] == [0, 1]
    assert sum(one["calls"] for one in scales.call_all(Scale.facts)) == 4
    assert scales.call_all(Scale.is_read_only) == [True, True]
    rows = scales.map(Scale.apply, list(inputs[:7, None] + np.arange(7.0)[:, None]))
    np.testing.assert_array_equal(
        np.array(rows)[:, 3], [(2.0 + number) * weights[3] + 1 for number in range(7)]
    )
    scales.broadcast(Scale.load, {"weights": np.float64(3.0)})
    assert scales.call_all(Scale.apply, 5.0) == [16.0, 16.0]


def test_map_gives_work_to_whoever_is_free(scales):
    seconds = [1.0, *[0.1] * 6]
    done = scales.map(Scale.slow, seconds)
    long = done[0][0]
    assert [index for index, _, _ in done].count(long) <= 2  # the other one did the rest


@pytest.mark.parametrize(
    ("sign", "said"),
    [(signal.SIGKILL, "was killed by SIGKILL"), (signal.SIGSTOP, "has not answered for")],
)
def test_one_lost_in_the_middle_of_a_call_is_replaced_and_has_the_weights(
    scales, gone, sign, said, monkeypatch
):
    monkeypatch.setattr(pulse, "SILENT_AFTER_S", 2.0)
    scales.broadcast(Scale.load, {"weights": np.float64(2.0)})
    scales.broadcast(Scale.load, {"weights": np.float64(3.0)})
    before = scales.call_all(Scale.facts)
    victim, others = before[1]["pid"], []

    def call_the_other_one():
        while not others or time.monotonic() < others[0] + 2:
            others.append(scales.replicas[0].slow(0.01)[2])

    threading.Timer(0.5, os.kill, (victim, sign)).start()
    other = threading.Thread(target=call_the_other_one)
    other.start()
    index, pid, _ = scales.replicas[1].slow(1.5)
    other.join()
    assert index == 1
    assert pid != victim
    assert max(np.diff(others)) < 1.0  # it went on while its neighbour was replaced
    assert scales.call_all(Scale.apply, 5.0) == [16.0, 16.0]
    after = scales.call_all(Scale.facts)
    assert after[0]["pid"] == before[0]["pid"]
    assert "replica 1 on" in scales.said[0]
    assert said in scales.said[0]
    assert "at slow; it is replaced" in scales.said[0]
    assert gone(before[1]["child"])


def test_one_that_is_built_again_while_another_thread_broadcasts_has_all_of_the_state(
    scales, tmp_path
):
    begun = tmp_path / "begun"
    scales.broadcast(Scale.load_slowly, {"weights": np.float64(3.0), "begun": str(begun)})
    os.kill(scales.replicas[1].slow(0)[1], signal.SIGKILL)
    begun.unlink()
    found = []
    caller = threading.Thread(target=lambda: found.append(scales.replicas[1].apply(5.0)))
    caller.start()
    while not begun.exists():  # its replica gets the weights again
        time.sleep(0.01)
    scales.broadcast(Scale.load_bias, np.float64(2.0))
    caller.join()
    assert found == [16.0]  # by the weights and the bias of before
    assert scales.call_all(Scale.apply, 5.0) == [17.0, 17.0]


def test_one_that_died_while_nobody_called_it_does_not_fail_the_next_call(scales):
    scales.broadcast(Scale.load, {"weights": np.float64(3.0)})
    os.kill(scales.replicas[0].slow(0)[1], signal.SIGKILL)
    assert scales.call_all(Scale.apply, 5.0) == [16.0, 16.0]


def test_one_whose_object_is_of_no_more_use_is_replaced_and_asked_again(scales, tmp_path, gone):
    before = scales.replicas[1].slow(0)[1]
    index, pid = scales.replicas[1].lose_a_child_once(str(tmp_path / "marker"))
    assert index == 1
    assert gone(before)
    assert pid != before
    assert "lost a child, at lose_a_child_once; it is replaced" in scales.said[0]


def test_a_call_that_ends_every_replica_is_given_up_by_name_and_the_service_lives_on(scales):
    with pytest.raises(ServiceFailed) as caught:
        scales.replicas[1].die()
    told = str(caught.value)
    assert told.count("replica 1 on") == 3
    assert told.count("was killed by SIGKILL, it seems") == 3
    assert "at die" in told
    assert "replica-1.log" in told
    assert (caught.value.replica, caught.value.cause) == (1, "killed")
    assert scales.replicas[1].slow(0)[0] == 1


def test_exceptions_of_methods_come_as_themselves_and_leave_the_replica_alive(scales):
    pids = [pid for _, pid, _ in scales.call_all(Scale.slow, 0)]
    for call in (lambda: scales.replicas[0].fail("row 17"), lambda: scales.map(Scale.fail, [1])):
        with pytest.raises(KeyError) as caught:
            call()
        assert "in fail" in "".join(caught.value.__notes__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scales.replicas[0].nothing()
    assert [pid for _, pid, _ in scales.call_all(Scale.slow, 0)] == pids


def test_an_exception_of_the_factory_comes_as_itself(session, tmp_path):
    with (
        pytest.raises(ValueError, match=r"bias of [01] is a bad one"),
        service(Scale, "a bad one", TWO, log_folder=tmp_path, session=session),
    ):
        pass


def test_the_stop_event_ends_calls_under_way(session, tmp_path, gone):
    stop = threading.Event()
    with service(Scale, 0.0, TWO, log_folder=tmp_path, session=session, stop=stop) as scales:
        pids = [pid for _, pid, _ in scales.call_all(Scale.slow, 0)]
        threading.Timer(0.3, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            scales.call_all(Scale.slow, 600)
        assert time.monotonic() - begun < 3
    assert all(gone(pid) for pid in pids)
