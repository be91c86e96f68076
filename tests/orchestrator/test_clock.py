import time

import pytest

from orchestrator.record.clock import Clock
from orchestrator.record.journal import Journal
from orchestrator.record.lines import read

DAY_NS = 86_400 * 10**9


@pytest.fixture
def wall(monkeypatch):
    """The wall clock, which a test may set; the monotonic clock is the host's."""
    shift = [0]
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + shift[0])
    monkeypatch.setattr(time, "time", lambda: (real() + shift[0]) / 1e9)
    return shift


@pytest.mark.parametrize("jump", [-3 * DAY_NS, 3 * DAY_NS])
def test_a_clock_that_is_set_changes_neither_times_nor_durations(wall, jump):
    clock, begun = Clock(), time.time_ns() // 10**6
    wall[0] = jump
    assert 0 <= clock.now_ms() - begun < 5_000
    assert 0 <= clock.seconds() < 5


def times(folder, name):
    return [line["time_ms"] for line in read(folder / name)[0]]


def test_a_journal_is_in_the_order_of_its_times_whatever_clocks_do(tmp_path, wall):
    begun = time.time_ns() // 10**6
    with Journal(tmp_path) as book:
        book.event("started")
        book.metrics(1, {"x": 1.0})
        wall[0] = -3 * DAY_NS
        book.metrics(2, {"x": 1.0}, time_ms=time.time_ns() // 10**6)  # a worker set back
        wall[0] = 3 * DAY_NS
        book.metrics(3, {"x": 1.0}, time_ms=time.time_ns() // 10**6)  # and one set forward
        book.metrics(4, {"x": 1.0})
        book.event("finished")
    wall[0] = -3 * DAY_NS
    with Journal(tmp_path, attempt=2) as book:  # another driver, after the clock was set back
        book.event("resumed", step=2, path="c")
        book.metrics(3, {"x": 1.0})
    for name in ("metrics.jsonl", "events.jsonl"):
        written = times(tmp_path, name)
        assert written == sorted(written)
        assert 0 <= written[0] - begun <= written[-1] - begun < 5_000


def test_the_time_of_a_worker_is_kept_where_it_can_be_true(tmp_path):
    with Journal(tmp_path) as book:
        book.metrics(1, {"x": 1.0})
        begun = times(tmp_path, "metrics.jsonl")[0]
        time.sleep(0.05)
        book.metrics(2, {"x": 1.0}, time_ms=begun + 20)
    assert times(tmp_path, "metrics.jsonl")[1] == begun + 20
