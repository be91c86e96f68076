"""Who holds a place, for how long still, and who of them has to leave for a better one."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.queue.job import Job
from cluster.queue.placing import Amounts, Cluster, Kinds, Spot

STOPPING_S = 30.0
"""How long a driver takes to save and leave, for estimates."""
UNKNOWN_S = 60.0
"""Without a limit or a known duration, a job is taken to run for as long again as it has run, and
for this at least: the median rest of a duration with a heavy tail grows with its age."""


@dataclass(frozen=True)
class Holding:
    """A job that holds its place."""

    job: Job
    placement: tuple[str, ...]
    ran_s: float = 0.0
    stopping: bool = False

    @property
    def left_s(self) -> float:
        """How long it will still run, estimated."""
        if self.stopping:
            return STOPPING_S
        return left_s(self.job, self.ran_s)


def left_s(job: Job, ran_s: float) -> float:
    """How long a job that ran for `ran_s` seconds will still run, estimated."""
    known = [one - ran_s for one in (job.expected_s, job.limit_s) if one is not None]
    ahead = [one for one in known if one > 0]
    if ahead:
        return min(ahead)
    return 1.0 if job.limit_s is not None else max(UNKNOWN_S, ran_s)


def fewest(
    cluster: Cluster, kinds: Kinds, free: Amounts, weaker: list[tuple[Holding, Spot]]
) -> list[tuple[Holding, Spot]]:
    """Who has to leave so that a job fits; nobody if it would not fit without all of them."""
    everybody = free.copy()
    for _, spot in weaker:
        everybody[spot.index] += spot.amounts
    if cluster.place(kinds, everybody) is None:
        return []

    def gain(victim: tuple[Holding, Spot], free: Amounts) -> int:
        """How many more bundles fit without it; only its own nodes change."""
        spot = victim[1]
        part = free[spot.index]
        return sum(
            int((cluster.counts(bundle, part + spot.amounts, spot.index)).sum())
            - int(cluster.counts(bundle, part, spot.index).sum())
            for bundle, _ in kinds
        )

    weaker = sorted(weaker, key=_loss)
    free, chosen = free.copy(), []
    while cluster.place(kinds, free) is None:
        best = max(weaker, key=lambda victim: gain(victim, free))  # the first of equally good ones
        weaker.remove(best)
        chosen.append(best)
        free[best[1].index] += best[1].amounts
    # The greedy choice may have taken one too many.
    for victim in sorted(chosen, key=_loss, reverse=True):
        free[victim[1].index] -= victim[1].amounts
        if cluster.place(kinds, free) is None:
            free[victim[1].index] += victim[1].amounts
        else:
            chosen.remove(victim)
    return chosen


def _loss(victim: tuple[Holding, Spot]) -> tuple[float, ...]:
    holding = victim[0]
    size = [holding.job.total(name) for name in ("gpus", "cpus", "memory_bytes")]
    return (holding.job.priority, holding.ran_s, *size)
