"""Which of several attempts counts, against a naive account of what made the weights."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.record.descent import Descent
from orchestrator.record.journal import Journal

# An attempt: how many steps it makes, and which of the checkpoints there are it goes on from,
# counted from the newest; beyond the last it begins afresh.
ATTEMPTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=6)


def write(folder, attempts, every=4):
    """Play the attempts; returns what made the weights of the last one, as {step: attempt}."""
    made, saved = {}, {}
    with Journal(folder) as book:
        for number, (steps, back) in enumerate(attempts, 1):
            book.attempt = number
            choice = sorted(saved)[::-1][back : back + 1]
            start, past = choice[0] if choice else 0, {}
            if choice:
                book.event("resumed", step=start)
                past = saved[start]
            elif not steps:
                continue  # died before its first step: nobody can know that it began afresh
            made = dict(past)
            for step in range(start + 1, start + steps + 1):
                made[step] = number
                book.metrics(step, {"x": float(step)})
                if step % every == 0:
                    book.event("checkpoint", step=step)
                    saved[step] = dict(made)
    return made


@settings(deadline=None, max_examples=200)
@given(ATTEMPTS)
def test_a_step_counts_exactly_if_it_made_the_weights_of_the_newest_attempt(attempts):
    with TemporaryDirectory() as folder:
        made = write(Path(folder), attempts)
        descent = Descent(Path(folder))
    for step in range(1, 80):
        holders = [n for n in range(1, len(attempts) + 1) if descent.holds(n, step)]
        assert made.get(step) in (None, *holders)
        worked = [n for n in holders if step in _steps_of(attempts, n, made)]
        assert worked == ([made[step]] if step in made else [])


def _steps_of(attempts, number, made):
    return {step for step, maker in made.items() if maker == number}


@pytest.mark.parametrize("recorded", [True, False])
def test_a_checkpoint_whose_event_was_lost_belongs_to_the_attempt_that_passed_its_step(
    tmp_path, recorded
):
    with Journal(tmp_path) as book:
        book.metrics(100, {"x": 1.0})
        book.metrics(101, {"x": 1.0})
        if recorded:
            book.event("checkpoint", step=100)
        book.attempt = 2
        book.event("resumed", step=100)
    descent = Descent(tmp_path)
    assert (descent.holds(1, 100), descent.holds(1, 101), descent.holds(2, 101)) == (1, 0, 1)
    assert str(descent) == "attempt 1 to step 100, attempt 2"


def test_going_on_from_another_run_twice_leaves_only_the_second_time(tmp_path):
    with Journal(tmp_path) as book:
        for attempt in (1, 2):
            book.attempt = attempt
            book.event("resumed", step=100)
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
