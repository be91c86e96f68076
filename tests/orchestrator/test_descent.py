"""Which of several attempts counts, against a naive account of what made the weights."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings

from orchestrator.record.descent import Descent
from orchestrator.record.journal import Journal
from orchestrator.record.lines import read
from tests.orchestrator.attempts import ATTEMPTS, play


@settings(deadline=None, max_examples=80)
@given(ATTEMPTS)
def test_a_step_counts_exactly_if_it_made_the_weights_of_the_newest_attempt(attempts):
    with TemporaryDirectory() as folder:
        made = play(Path(folder), attempts)
        descent, lines = Descent(Path(folder)), read(Path(folder) / "metrics.jsonl")[0]
    counting = {
        (line["step"], line["attempt"])
        for line in lines
        if descent.holds(line["attempt"], line["step"])
    }
    assert counting == set(made.by.items())


@pytest.mark.parametrize("recorded", [True, False])
def test_a_checkpoint_whose_event_was_lost_belongs_to_the_attempt_that_passed_its_step(
    tmp_path, recorded
):
    with Journal(tmp_path) as book:
        book.metrics(100, {"x": 1.0})
        book.metrics(101, {"x": 1.0})
        if recorded:
            book.event("checkpoint", step=100, path="c")
        book.attempt = 2
        book.event("resumed", step=100, path="c")
    descent = Descent(tmp_path)
    assert (descent.holds(1, 100), descent.holds(1, 101), descent.holds(2, 101)) == (1, 0, 1)
    assert str(descent) == "attempt 1 to step 100, attempt 2"


def test_going_on_from_another_run_twice_leaves_only_the_second_time(tmp_path):
    with Journal(tmp_path) as book:
        for attempt in (1, 2):
            book.attempt = attempt
            book.event("resumed", step=100, path="c")
            book.metrics(101, {"x": float(attempt)})
    descent = Descent(tmp_path)
    assert not descent.holds(1, 101)
    assert descent.holds(2, 101)


def test_it_follows_a_journal_that_grows(tmp_path):
    with Journal(tmp_path) as book:
        descent = Descent(tmp_path)
        assert descent.newest == 0
        book.metrics(1, {"x": 1.0})
        descent.refresh()
        assert descent.holds(1, 1)
        book.attempt = 2
        book.metrics(1, {"x": 1.0})  # no checkpoint was there: it begins afresh
        descent.refresh()
        assert not descent.holds(1, 1)
        assert descent.holds(2, 1)
