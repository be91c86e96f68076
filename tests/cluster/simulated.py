"""A cluster in simulated time: jobs arrive, admission decides, they run, end or are preempted."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from cluster.queue.admission import Candidate, Decision, decide
from cluster.queue.drivers import Node
from cluster.queue.job import Job, Quota
from cluster.queue.preemption import Holding

STOP_S = 10.0


@dataclass(frozen=True)
class Arrival:
    at_s: float
    job: Job
    duration_s: float
    """How long it really runs; its limit, if it has one, is not below."""


@dataclass
class Life:
    arrival: Arrival
    seq: int
    ran_s: float = 0.0
    placement: tuple[str, ...] = ()
    since_s: float = 0.0
    stopping: bool = False
    started_s: float | None = None
    ended_s: float | None = None
    promised_s: float = math.inf
    """The earliest time at which a reservation said that it would start."""


@dataclass
class Round:
    now_s: float
    decision: Decision
    considered: int
    running: list[Holding]


@dataclass
class Simulation:
    nodes: Sequence[Node]
    arrivals: Sequence[Arrival]
    quotas: Sequence[Quota] = ()
    every_s: float = 0.0
    """Rounds are held at multiples of it. 0: whenever something happens."""
    lives: dict[str, Life] = field(default_factory=dict)

    def rounds(self) -> Iterator[Round]:
        """Every round until all that can end has ended."""
        coming = [(one.at_s, number, one.job.id) for number, one in enumerate(self.arrivals)]
        heapq.heapify(coming)
        self.lives = {one.job.id: Life(one, seq) for seq, one in enumerate(self.arrivals)}
        waiting: dict[str, Life] = {}
        running: dict[str, Life] = {}
        while coming:
            now = coming[0][0]
            if self.every_s:
                now = math.ceil(now / self.every_s) * self.every_s
            while coming and coming[0][0] <= now:
                at, number, job_id = heapq.heappop(coming)
                self._happen(self.lives[job_id], number, at, waiting, running)
            yield (found := self._decide(now, waiting, running))
            for job_id, placement in found.decision.starts.items():
                life = waiting.pop(job_id)
                running[job_id] = life
                life.placement, life.since_s = placement, now
                life.started_s = now if life.started_s is None else life.started_s
                left = life.arrival.duration_s - life.ran_s
                heapq.heappush(coming, (now + left, life.seq, job_id))
            for job_id in found.decision.preempted:
                running[job_id].stopping = True
                heapq.heappush(coming, (now + STOP_S, -1 - running[job_id].seq, job_id))

    def _happen(
        self, life: Life, number: int, at: float, waiting: dict[str, Life], running: dict[str, Life]
    ) -> None:
        job_id = life.arrival.job.id
        if job_id in running:
            over = life.ran_s + at - life.since_s >= life.arrival.duration_s - 1e-6
            if over:
                life.ended_s = at
                del running[job_id]
            elif number < 0:  # it has saved and left; the end that was to come is void
                life.ran_s += at - life.since_s
                life.stopping = False
                waiting[job_id] = running.pop(job_id)
        elif life.ended_s is None and at == life.arrival.at_s:
            waiting[job_id] = life

    def _decide(self, now: float, waiting: dict[str, Life], running: dict[str, Life]) -> Round:
        holdings = [
            Holding(
                life.arrival.job, life.placement, life.ran_s + now - life.since_s, life.stopping
            )
            for life in running.values()
        ]
        candidates = [
            Candidate(life.arrival.job, life.seq, life.ran_s) for life in waiting.values()
        ]
        decision = decide(self.nodes, holdings, candidates, self.quotas, now)
        for reservation in decision.reservations:
            life = self.lives[reservation.job_id]
            life.promised_s = min(life.promised_s, now + reservation.in_s)
        return Round(now, decision, len(candidates), holdings)
