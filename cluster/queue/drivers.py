"""What the keeper asks of the transport that starts and stops drivers: the Protocol.

A driver is the process that runs a job's command. A transport must keep three promises, on which
it rests that no attempt ever runs twice:

1. `start` of an id that was started before does nothing, whoever of several keepers asks.
2. `states` tells `ended` only when no process of that attempt is left.
3. An id that `states` leaves out has never run, or the transport lost all trace of it together with
   its processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster.queue.job import Attempt

INTERRUPTED = 130
"""Exit code of a driver that was told to leave and has saved a checkpoint."""


class TransportAway(ConnectionError):
    """Nothing can be said or done right now; the keeper concludes nothing and asks again."""


class StartRefused(RuntimeError):
    """This attempt cannot start, and never will: its node is gone, its command is not there."""


@dataclass(frozen=True)
class Node:
    """A machine that is there now, with all that it has, used or not."""

    name: str
    cpus: int
    gpus: int = 0
    memory_bytes: int = 0
    labels: frozenset[str] = frozenset()
    """`key=value`."""


@dataclass(frozen=True)
class Driver:
    """What has become of an attempt."""

    ended: bool
    exit_code: int | None = None
    """None while it runs, or if it is gone without one."""
    message: str = ""
    """What is known about its end."""

    @property
    def died(self) -> bool:
        """It ended without a result: killed, or lost with its machine."""
        code = self.exit_code
        return self.ended and (code is None or code < 0 or (code > 128 and code != INTERRUPTED))


class Drivers(Protocol):
    """Starts, watches and stops drivers; all calls may raise TransportAway."""

    def nodes(self) -> Sequence[Node]:
        """The machines that can be used now."""

    def start(self, attempt: Attempt) -> None:
        """Start the command of the job under `attempt.submission_id`, unless it was before.

        Raises:
            StartRefused: it cannot start, and nothing of it runs.
        """

    def states(self, submission_ids: Sequence[str]) -> Mapping[str, Driver]:
        """What has become of these attempts."""

    def stop(self, submission_id: str, grace_s: float) -> None:
        """SIGTERM to the driver; SIGKILL to all that is left of it `grace_s` seconds later.

        Returns at once, and is called again every second or so until the driver has ended. One that
        has never started is kept from starting.
        """
