"""Who starts where, who is preempted for whom, and why everybody else waits: one pure function.

Jobs are considered by priority, among equals in the order in which they were handed in:

1. What may not start yet (dependencies, a date, a quota) is passed over, and so is what would not
   fit if nothing else ran: it holds nobody up.
2. What fits starts.
3. The first that does not fit gets a reservation: the earliest time, by the time limits and known
   durations of what runs, at which its place will be free. Jobs behind it start only where they
   have ended by then or leave that place alone (EASY back-fill; Lifka, The ANL/IBM SP scheduling
   system, 1995). So a large job waits for those that run, and for none that came after it.
4. Whatever does not fit may have jobs of lower priority preempted, if that makes room enough: the
   fewest, and of equally good ones the least important, youngest, smallest. Its place is reserved.

The same question has the same answer; nothing here looks at a clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np

from cluster.queue import reasons
from cluster.queue.drivers import Node
from cluster.queue.job import Job, JobRefused, Quota, State
from cluster.queue.placing import RESOURCES, Amounts, Cluster, Kinds, Spot
from cluster.queue.preemption import STOPPING_S, Holding, fewest, left_s

RESERVATIONS = 16
"""At most so many at a time; each makes it dearer to ask whether a job fits."""


@dataclass(frozen=True)
class Candidate:
    """A job that waits."""

    job: Job
    seq: int
    """The order in which they were handed in."""
    ran_s: float = 0.0
    """Before it was preempted."""
    waits_for: tuple[tuple[str, State], ...] = ()
    """Those of `job.after` that are not done."""


@dataclass(frozen=True)
class Verdict:
    """Why a job waits."""

    reason: str
    expected_start_s: float | None
    """Seconds since 1970; None where nothing can be said."""


@dataclass(frozen=True)
class Reservation:
    """A place that will be free for a job at a time."""

    job_id: str
    in_s: float
    """Seconds from now."""
    spot: Spot
    spare: Amounts
    """Of each node, what others may hold at that time and afterwards; (N, 3)."""


@dataclass
class Decision:
    """What is to be done now; every job that waits is in `starts` or in `verdicts`."""

    starts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The node of each bundle, by job."""
    preempted: dict[str, str] = field(default_factory=dict)
    """For whom, by job that has to leave."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    reservations: list[Reservation] = field(default_factory=list)


def decide(
    nodes: Iterable[Node],
    running: Sequence[Holding],
    waiting: Iterable[Candidate],
    quotas: Iterable[Quota],
    now: float,
) -> Decision:
    """Decide about all jobs that wait.

    Args:
        nodes: the machines that are there.
        running: who holds a place, also if just starting or stopping.
        waiting: who waits, in any order.
        quotas: all there are.
        now: seconds since 1970, for dates.
    """
    pass_ = _Pass(nodes, running, quotas, now)
    for candidate in sorted(waiting, key=lambda one: (-one.job.priority, one.seq)):
        pass_.consider(candidate)
    return pass_.decision


def refuse_what_never_fits(job: Job, nodes: Iterable[Node], quotas: Iterable[Quota]) -> None:
    """Raise JobRefused for a job that could not start if nothing else ran.

    Args:
        job: that somebody hands in.
        nodes: the machines that are there.
        quotas: all there are.
    """
    cluster = Cluster(nodes)
    if cluster.place(job.kinds, cluster.total) is None:
        raise JobRefused(
            f"job {job.id}: {reasons.never(job, cluster)}; ask for less in each part or for fewer "
            "parts, or add a node"
        )
    for quota, who, name in _quotas_of(job, _by_name(quotas)):
        needed = job.total(name)
        if needed > quota.limits[name]:
            raise JobRefused(
                f"job {job.id}: {reasons.over_quota(quota, who, name, 0, needed)}; ask for less, "
                "or have the quota raised"
            )


class _Pass:
    """One pass over the queue. What is free only shrinks in it, so what did not fit never will."""

    def __init__(
        self,
        nodes: Iterable[Node],
        running: Sequence[Holding],
        quotas: Iterable[Quota],
        now: float,
    ) -> None:
        self.cluster = Cluster(nodes)
        self.quotas = _by_name(quotas)
        self.now = now
        self.decision = Decision()
        self.free = self.cluster.total.copy()
        self.reserved = np.zeros_like(self.free)
        self.used: Counter[tuple[str, str, str]] = Counter()
        self.work: Counter[str] = Counter()
        """CPU-seconds and GPU-seconds of all considered so far."""
        self.ahead: Counter[str] = Counter()
        """CPUs and GPUs that jobs turned away so far ask for."""
        self.returns: list[float] = []
        self.given_back: dict[str, list[int]] = {"cpus": [], "gpus": []}
        """In how many seconds what runs ends, and what it has given back by then."""
        self.holdings: list[tuple[Holding, Spot]] = []
        self.ends: list[tuple[float, str, Spot]] = []
        self.blocked: list[Job] = []
        self.waited = False
        """Whether a job has its place reserved for when others end by themselves."""
        self.full: set[tuple[Kinds, int]] = set()
        self.fits: dict[Kinds, int] = {}
        """How many jobs were started when the kind was last found to fit."""
        self.fitted: dict[Kinds, int] = {}
        """How many bundles fitted when a job of this kind was first turned away."""
        self.possible: dict[Kinds, bool] = {}
        self.unaided: set[Kinds] = set()
        """Kinds that no preemption helps; nor will it those of lower priority that follow."""
        for holding in running:
            spot = self.cluster.spot(holding.job, holding.placement)
            self.holdings.append((holding, spot))
            self._take(holding.job, spot, holding.left_s)

    def consider(self, candidate: Candidate) -> None:
        """Let one job start, or say why it waits."""
        job = candidate.job
        bar = self._bar(candidate)
        if bar is not None:
            self._say(job, bar, job.not_before)
            return
        bound = math.inf if job.limit_s is None else job.limit_s - candidate.ran_s
        spot = self._find(job.kinds, bound)
        if spot is None:
            self._block(candidate)
            return
        self.decision.starts[job.id] = self.cluster.names(job, spot)
        for reservation in self.decision.reservations:
            if bound > reservation.in_s:
                reservation.spare[spot.index] -= spot.amounts
        self._take(job, spot, left_s(job, candidate.ran_s))

    def _bar(self, candidate: Candidate) -> str | None:
        """What stands against it whatever is free."""
        job = candidate.job
        if candidate.waits_for:
            return reasons.unmet(candidate.waits_for)
        if job.not_before is not None and job.not_before > self.now:
            return reasons.too_early(job.not_before, self.now)
        for quota, who, name in _quotas_of(job, self.quotas):
            used, needed = self.used[quota.kind, who, name], job.total(name)
            if used + needed > quota.limits[name]:
                return reasons.over_quota(quota, who, name, used, needed)
        if job.kinds not in self.possible:
            fits = self.cluster.place(job.kinds, self.cluster.total)
            self.possible[job.kinds] = fits is not None
        return None if self.possible[job.kinds] else reasons.never(job, self.cluster)

    def _find(self, kinds: Kinds, bound: float) -> Spot | None:
        """A place that is free now and, where it matters, when others are to start."""
        binding = [r.in_s < bound for r in self.decision.reservations]
        mask = sum(1 << number for number, binds in enumerate(binding) if binds)
        if (kinds, 0) in self.full or (kinds, mask) in self.full:
            return None
        available = self.free
        for reservation, binds in zip(self.decision.reservations, binding, strict=True):
            if binds:
                available = np.minimum(available, reservation.spare)
        spot = self.cluster.place(kinds, available)
        if spot is None:
            self.full.add((kinds, mask))
        return spot

    def _block(self, candidate: Candidate) -> None:
        """Say why it waits, and reserve its place if it is the first or somebody leaves for it."""
        job = candidate.job
        if job.kinds not in self.fitted:
            self.fitted[job.kinds] = self.cluster.fitting(job.kinds, self.free)
        fits, reservations = self.fitted[job.kinds], self.decision.reservations
        leaving = self._leaving(job)
        if leaving:
            self._say(job, reasons.preempting(job, leaving), self.now + STOPPING_S)
        elif not self.waited and (found := self._wait(job)) is not None:
            in_s, ends = found
            self._say(job, reasons.first(job, fits, ends, in_s), self.now + in_s)
        elif self._fits_now(job.kinds):
            first = min(reservations, key=lambda one: one.in_s)
            ahead = next(one for one in self.blocked if one.id == first.job_id)
            self._say(job, reasons.held(job, ahead, first.in_s), self.now + self._backlog_s(job))
        else:
            seconds = self._backlog_s(job)
            ahead = self.blocked[0]
            why = reasons.behind(job, fits, len(self.blocked), ahead, seconds)
            self._say(job, why, self.now + seconds)
        self.blocked.append(job)
        self.ahead.update({"cpus": job.total("cpus"), "gpus": job.total("gpus")})
        self._add_work(job, left_s(job, candidate.ran_s))

    def _fits_now(self, kinds: Kinds) -> bool:
        """Whether it would fit if nobody was ahead; found out once for each kind and start."""
        if (kinds, 0) in self.full:
            return False
        if self.fits.get(kinds) != len(self.decision.starts):
            if self.cluster.place(kinds, self.free) is None:
                self.full.add((kinds, 0))
                return False
            self.fits[kinds] = len(self.decision.starts)
        return True

    def _wait(self, job: Job) -> tuple[float, list[str]] | None:
        """Reserve the place that is free first; in how many seconds, and whose end it waits for."""
        ends = sorted(self.ends, key=lambda end: end[:2])
        rows = np.concatenate([spot.index for _, _, spot in ends])
        amounts = np.concatenate([spot.amounts for _, _, spot in ends])
        until = np.cumsum([len(spot.index) for _, _, spot in ends])

        def later(count: int) -> Amounts:
            free: Amounts = self.free - self.reserved
            np.add.at(free, rows[: until[count - 1]], amounts[: until[count - 1]])
            return free

        low, high = 1, len(ends)
        while low < high:  # what fits after some ends fits after more of them
            middle = (low + high) // 2
            if self.cluster.place(job.kinds, later(middle)) is None:
                low = middle + 1
            else:
                high = middle
        in_s = ends[low - 1][0]
        while low < len(ends) and ends[low][0] <= in_s:
            low += 1
        spot = self._reserve(job, in_s, later(low))
        if spot is None:
            return None
        self.waited = True
        mine = set(spot.index.tolist())
        return in_s, [who for _, who, other in ends[:low] if mine & set(other.index.tolist())]

    def _leaving(self, job: Job) -> list[str]:
        """Whose leaving makes room for a job: who is stopping anyhow, or is now to be preempted."""
        if job.kinds in self.unaided or len(self.decision.reservations) == RESERVATIONS:
            return []
        free: Amounts = self.free - self.reserved
        stopping, weaker = [], []
        for holding, spot in self.holdings:
            if holding.stopping or holding.job.id in self.decision.preempted:
                stopping.append(holding.job.id)
                free[spot.index] += spot.amounts
            elif holding.job.priority < job.priority:
                weaker.append((holding, spot))
        if stopping and self._reserve(job, STOPPING_S, free):
            return stopping
        victims = fewest(self.cluster, job.kinds, free, weaker) if weaker else []
        if not victims:
            self.unaided.add(job.kinds)
            return []
        for holding, spot in victims:
            free[spot.index] += spot.amounts
            self.decision.preempted[holding.job.id] = job.id
        self._reserve(job, STOPPING_S, free)
        return [holding.job.id for holding, _ in victims]

    def _reserve(self, job: Job, in_s: float, free: Amounts) -> Spot | None:
        """Keep a place in what will be free at a time; None if there is none."""
        spot = self.cluster.place(job.kinds, free)
        if spot is not None:
            spare = free.copy()
            spare[spot.index] -= spot.amounts
            self.reserved[spot.index] += spot.amounts
            self.decision.reservations.append(Reservation(job.id, in_s, spot, spare))
        return spot

    def _take(self, job: Job, spot: Spot, for_s: float) -> None:
        self.free[spot.index] -= spot.amounts
        self.ends.append((for_s, job.id, spot))
        self._add_work(job, for_s)
        for quota, who, name in _quotas_of(job, self.quotas):
            self.used[quota.kind, who, name] += job.total(name)

    def _add_work(self, job: Job, for_s: float) -> None:
        for name in ("cpus", "gpus"):
            self.work[name] += int(job.total(name) * for_s)

    def _backlog_s(self, job: Job) -> float:
        """When there is room for it behind all that come first: a guess from the totals.

        As long as these ask for no more than the cluster has, that is when so much has been given
        back by what runs; beyond, it is when all of their work is done, were the cluster kept full.
        """
        name = reasons.short_of(job.kinds)
        column = RESOURCES.index(name)
        total = int(self.cluster.total[:, column].sum())
        if not self.returns:
            ends = sorted(self.ends, key=lambda end: end[0])
            for one, given in self.given_back.items():
                amounts = [int(s.amounts[:, RESOURCES.index(one)].sum()) for _, _, s in ends]
                given.extend(accumulate(amounts))
            self.returns = [in_s for in_s, _, _ in ends]
        wanted = self.ahead[name] + job.total(name) - int(self.free[:, column].sum())
        place = bisect_left(self.given_back[name], wanted)
        if place < len(self.returns):
            return self.returns[place]
        return self.work[name] / max(1, total)

    def _say(self, job: Job, reason: str, expected_start_s: float | None) -> None:
        self.decision.verdicts[job.id] = Verdict(reason, expected_start_s)


def _by_name(quotas: Iterable[Quota]) -> dict[tuple[str, str], tuple[Quota, tuple[str, ...]]]:
    return {(quota.kind, quota.name): (quota, tuple(quota.limits)) for quota in quotas}


def _quotas_of(
    job: Job, quotas: dict[tuple[str, str], tuple[Quota, tuple[str, ...]]]
) -> list[tuple[Quota, str, str]]:
    """The quota, whose it is, and the limited resource, for each limit that binds a job."""
    found = []
    for kind, who in (("owner", job.owner), ("project", job.project)) if quotas else ():
        quota, names = quotas.get((kind, who)) or quotas.get((kind, "*")) or (None, ())
        found += [(quota, who, name) for name in names if quota is not None]
    return found
