"""What several jobs take together."""

from random import Random

from orchestrator.plan.several import ends


def second_by_second(lasts, room):
    waiting, running, now = list(lasts), [], 0
    while waiting or running:
        free = room - len(running)
        running, waiting = [*running, *waiting[:free]], waiting[free:]
        running, now = [left - 1 for left in running if left > 1], now + 1
    return now


def test_jobs_begin_in_order_as_soon_as_there_is_a_place():
    draw = Random(0)
    for _ in range(200):
        lasts, room = [draw.randint(1, 9) for _ in range(draw.randint(1, 12))], draw.randint(1, 4)
        assert ends(lasts, room) == second_by_second(lasts, room), (lasts, room)
