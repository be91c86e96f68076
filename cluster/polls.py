"""The records of a gang's workers on their way to the driver, and who has fallen silent."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from cluster.heart import Progress
from cluster.worker import Pulse, Record

OnRecords = Callable[[int, list[Record]], None]

POLL_S = 0.25
POLL_OTHERS_S = 1.0  # ranks other than 0 seldom have anything to say
OWN_SAMPLES = 12  # of the own work of each rank, kept for a comparison


@dataclass(frozen=True)
class Silence:
    """How long a working rank has given no sign of life.

    A rank that is merely slow answers and sends no record; one that is stopped, that holds the
    GIL in native code, or that is cut off does not answer either.
    """

    answer_s: float
    """Seconds since it last answered a poll; up to about 1 s in a healthy one."""
    record_s: float
    """Seconds since its last record, or since the work began."""
    beat_s: float
    """Seconds since it was last seen to come on, or since the work began."""
    progress: Progress
    """How far it had come then."""


class Polls:
    """Collects the workers' records: at most one call is under way per worker.

    A worker that is frozen answers none and costs nothing more. Silence is counted in the time
    in which the driver listened: if the driver itself was stopped for an hour, or its machine
    slept, that hour is nobody's silence.
    """

    def __init__(self, ray: ModuleType, actors: list[Any], on_records: OnRecords) -> None:
        """Ask everybody once."""
        self.ray, self.actors, self.on_records = ray, actors, on_records
        ranks = range(len(actors))
        self.asked = {rank: actor.poll.remote() for rank, actor in enumerate(actors)}
        self.due = dict.fromkeys(ranks, 0.0)
        self.terminated: set[int] = set()  # ranks that got SIGTERM: their host is wanted elsewhere
        self.memory_kills: dict[int, int] = {}  # in each rank's memory group, by its last answer
        self._listened, self._now = 0.0, time.monotonic()
        self._answered, self._recorded = dict.fromkeys(ranks, 0.0), dict.fromkeys(ranks, 0.0)
        self._came_on, self._progress = dict.fromkeys(ranks, 0.0), dict.fromkeys(ranks, Progress())
        self.own: dict[int, deque[tuple[int, float]]] = {
            rank: deque(maxlen=OWN_SAMPLES) for rank in ranks
        }
        """The last of `Progress.own_s` of each rank."""

    def collect(self) -> None:
        """Deliver what has arrived, and ask again those whose turn it is."""
        now = time.monotonic()
        self._listened += min(now - self._now, 4 * POLL_S)
        self._now = now
        arrived = self._wait(0)
        for rank, ref in list(self.asked.items()):
            if ref in arrived:
                del self.asked[rank]
                self._deliver(rank, ref)
        for rank, due in self.due.items():
            if rank not in self.asked and now >= due:
                self.asked[rank] = self.actors[rank].poll.remote()
                self.due[rank] = now + (POLL_S if rank == 0 else POLL_OTHERS_S)

    def silences(self) -> dict[int, Silence]:
        """How long each rank that still works has been silent, as of the last `collect`."""
        return {
            rank: Silence(
                self.unheard_s(rank),
                self._listened - self._recorded[rank],
                self._listened - self._came_on[rank],
                self._progress[rank],
            )
            for rank in self.due
        }

    def unheard_s(self, rank: int) -> float:
        """Seconds since a rank, also one that has failed, last answered."""
        return self._listened - self._answered[rank]

    def finish(self, rank: int, rest: list[Record]) -> None:
        """Deliver a finished worker's last records, behind those of a poll under way."""
        self.due.pop(rank, None)
        if rank in self.asked:
            self._deliver(rank, self.asked.pop(rank))
        if rest:
            self.on_records(rank, rest)

    def last(self, limit_s: float, without: Container[int] = ()) -> None:
        """After a failure: deliver what ranks can still hand over in the time, but for some."""
        self.due = {rank: due for rank, due in self.due.items() if rank not in without}
        self.asked = {rank: ref for rank, ref in self.asked.items() if rank not in without}
        for rank in self.due.keys() - self.asked.keys():  # an answer that nobody reads is lost
            self.asked[rank] = self.actors[rank].poll.remote()
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
            pulse: Pulse = self.ray.get(ref, timeout=10)
        except self.ray.exceptions.RayError:
            self.due.pop(rank, None)  # it is dead, which its run tells better
            return
        if pulse.terminated:
            self.terminated.add(rank)
        self.memory_kills[rank] = pulse.memory_kills
        self._answered[rank] = self._listened
        if pulse.progress.beats != self._progress[rank].beats:
            self._came_on[rank] = self._listened
        self._progress[rank] = pulse.progress
        self.own[rank].extend(pulse.progress.own_s)
        if pulse.records:
            self._recorded[rank] = self._listened
            self.on_records(rank, pulse.records)
