"""What several jobs take together."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.plan.several import ends


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 4))
def test_jobs_begin_in_order_as_soon_as_there_is_a_place(lasts, room):
    waiting, running, now = list(lasts), [], 0
    while waiting or running:  # second by second
        free = room - len(running)
        running, waiting = [*running, *waiting[:free]], waiting[free:]
        running, now = [left - 1 for left in running if left > 1], now + 1
    assert ends(lasts, room) == now
