"""The records of a gang's workers on their way to the driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from cluster.worker import Record

OnRecords = Callable[[int, list[Record]], None]

POLL_S = 0.25
POLL_OTHERS_S = 1.0  # ranks other than 0 seldom have anything to say


class Polls:
    """Collects the workers' records: at most one call is under way per worker.

    A worker that is frozen answers none and costs nothing more.
    """

    def __init__(self, ray: ModuleType, actors: list[Any], on_records: OnRecords) -> None:
        """Ask everybody once."""
        self.ray, self.actors, self.on_records = ray, actors, on_records
        self.asked = {rank: actor.poll.remote() for rank, actor in enumerate(actors)}
        self.due = dict.fromkeys(range(len(actors)), 0.0)
        self.asked_to_stop = False  # a worker got SIGTERM: its node is wanted for something else

    def collect(self) -> None:
        """Deliver what has arrived, and ask again those whose turn it is."""
        now = time.monotonic()
        arrived = self._wait(0)
        for rank, ref in list(self.asked.items()):
            if ref in arrived:
                del self.asked[rank]
                self._deliver(rank, ref)
        for rank, due in self.due.items():
            if rank not in self.asked and now >= due:
                self.asked[rank] = self.actors[rank].poll.remote()
                self.due[rank] = now + (POLL_S if rank == 0 else POLL_OTHERS_S)

    def finish(self, rank: int, rest: list[Record]) -> None:
        """Deliver a finished worker's last records, behind those of a poll under way."""
        self.due.pop(rank, None)
        if rank in self.asked:
            self._deliver(rank, self.asked.pop(rank))
        if rest:
            self.on_records(rank, rest)

    def last(self, limit_s: float = 1.0) -> None:
        """Before the workers are killed: deliver what they can still hand over in the time."""
        for rank in self.due:
            self.asked.setdefault(rank, self.actors[rank].poll.remote())
        self._wait(limit_s)
        self.due = {}
        self.collect()

    def _wait(self, limit_s: float) -> list[Any]:
        """The answers that are here after `limit_s` seconds, or earlier if that is all."""
        refs = list(self.asked.values())
        if not refs:
            return []
        arrived: list[Any] = self.ray.wait(refs, num_returns=len(refs), timeout=limit_s)[0]
        return arrived

    def _deliver(self, rank: int, ref: Any) -> None:
        try:
            records, terminated = self.ray.get(ref, timeout=10)
        except self.ray.exceptions.RayError:
            self.due.pop(rank, None)  # it is dead, which its run tells better
            return
        self.asked_to_stop |= terminated
        if records:
            self.on_records(rank, records)
