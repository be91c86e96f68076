"""Which trials are best, and how sure that is."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.verbs.sweep.asked import Asked
from orchestrator.verbs.sweep.table import DONE, Trial


def ranked(asked: Asked, trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials that keep the constraints, best first; of several objectives, the front.

    The front is those than which no other is better in one objective and as good in all.
    """
    done = [t for t in trials if t.status == DONE and t.seed_of is None and t.allowed]
    signs = [1.0 if better == "lower" else -1.0 for _, better in asked.objectives]
    costs = {t.number: [s * v for s, v in zip(signs, t.values, strict=True)] for t in done}
    front = done
    if len(signs) > 1:
        front = [
            t for t in done if not any(_dominates(costs[o.number], costs[t.number]) for o in done)
        ]
    return sorted(front, key=lambda trial: (costs[trial.number], trial.number))


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether it is nowhere worse and somewhere better; lower is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


@dataclass(frozen=True)
class Repeated:
    """One of the best trials with all of its seeds."""

    trial: Trial
    values: list[float]
    """Of the first objective, its own first."""

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float:
        """Of a single seed, estimated without bias (n - 1); NaN of one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else math.nan


def repeated(asked: Asked, trials: Sequence[Trial]) -> list[Repeated]:
    """The trials that have run with several seeds, by their means, best first."""
    found = []
    for trial in ranked(asked, trials):
        others = [t.values[0] for t in trials if t.seed_of == trial.number and t.status == DONE]
        if others:
            found.append(Repeated(trial, [trial.values[0], *others]))
    sign = 1.0 if asked.objectives[0][1] == "lower" else -1.0
    return sorted(found, key=lambda own: sign * own.mean)


def certainty(first: Repeated, second: Repeated) -> tuple[float, float, float]:
    """How sure it is that the first is better: difference, its standard error, p.

    p is that of Welch's t-test, one-sided: how often a difference as large would come out if both
    were equally good. The first of the values made them be chosen, which flatters both alike.
    """
    from scipy.stats import ttest_ind

    difference = abs(second.mean - first.mean)
    variances = [own.deviation**2 / len(own.values) for own in (first, second)]
    error = math.sqrt(sum(variances))
    if error == 0:
        return difference, 0.0, 0.0 if difference else 1.0
    found = ttest_ind(first.values, second.values, equal_var=False)
    return difference, error, float(found.pvalue) / 2
