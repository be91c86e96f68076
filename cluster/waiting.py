"""Waits for what a cluster may have later: room, or its head process; said now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 0.25
SAY_AFTER_S, SAY_EVERY_S = 5.0, 60.0


class NoRoom(Exception):  # reads as what happened
    """The cluster had no room for the gang in all the time that it may wait."""


class ClusterAway(NoRoom):  # reads as what happened
    """The cluster's head process took no connections in all that time."""


def wait_until(
    there_is: Callable[[], bool],
    what: str,
    why_not: Callable[[], str],
    *,
    limit_s: float | None,
    say: Callable[[str], None],
    check: Callable[[], None],
    error: type[NoRoom] = NoRoom,
) -> None:
    """Return when it is there.

    Args:
        there_is: whether it is.
        what: its name, behind `waiting for` or `no`.
        why_not: what is known of the reason.
        limit_s: seconds to wait at most. None: for ever.
        say: gets a line now and then.
        check: called often; raises if the wait is over.
        error: what to raise after the limit.

    Raises:
        NoRoom: or another `error`; it was not there for so long.
    """
    begun = time.monotonic()
    say_at = begun + SAY_AFTER_S
    while not there_is():
        check()
        waited = time.monotonic() - begun
        if limit_s is not None and waited > limit_s:
            raise error(f"no {what} in {waited:.0f} s; {why_not()}")
        if time.monotonic() > say_at:
            say(f"waiting for {what} since {waited:.0f} s; {why_not()}")
            say_at += SAY_EVERY_S
        time.sleep(LOOK_S)
