"""Which step is the best, and when there is no more progress, against slow definitions."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.training.selection import Selection

VALUES = st.lists(st.sampled_from([1.0, 1.5, 2.0, 2.25, 3.0, math.nan, math.inf, -math.inf]))


def new(higher=False, patience=2, min_delta=0.5):
    return Selection("m", higher, patience, min_delta)


@given(VALUES, st.booleans(), st.integers(0, 20))
def test_the_best_is_the_first_of_the_best_numbers_also_if_it_went_on_from_a_checkpoint(
    values, higher, cut
):
    own = new(higher)
    taken = []
    for step, value in enumerate(values):
        if step == cut:
            again = new(higher)
            again.restore(json.loads(json.dumps(own.to_dict())))
            own = again
        taken.append(own.take(step, {"m": value, "other": 0.0}))
    numbers = [value for value in values if math.isfinite(value)]
    best = (max if higher else min)(numbers, default=None)
    assert own.best == best
    assert own.best_step == (None if best is None else values.index(best))
    assert not any(taken[(own.best_step or 0) + 1 :])


def test_patience_runs_out_after_so_many_evaluations_without_enough_progress():
    """By hand: progress is what is better than the last progress by more than 0.5."""
    own, left = new(), []
    for step, value in enumerate([3.0, 2.5, 2.25, 2.0, 1.75]):
        own.take(step, {"m": value})
        left.append(own.exhausted)
    assert left == [False, False, False, False, True]
    assert own.reason() == "m has not become better by more than 0.5 in 2 evaluations; " + (
        "its best is 1.75 after step 4"
    )


def test_what_was_kept_of_another_metric_counts_for_nothing():
    own, other = new(), Selection("accuracy", True, 2, 0.0)
    other.take(1, {"accuracy": 0.9})
    own.restore(other.to_dict())
    assert (own.best, own.without_progress) == (None, 0)


def test_a_metric_that_was_not_measured_is_an_error():
    with pytest.raises(KeyError):
        new().take(1, {"n": 1.0})
