"""The best size of each budget, without a law of N and D: Hoffmann et al. 2022, approaches 1 and 2.

Both end in power laws N = k C^a and D = k' C^b of the best runs. Where the law of approach 3 holds,
a is beta / (alpha + beta) in all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.scaling.points import Array, Points

SAME_BUDGET = 1.1  # largest by smallest C of runs that count as one budget
LEAST_SIZES = 3  # of a budget, that a parabola goes through
LEAST_BUDGETS = 2  # that a power law goes through
GRID = 100  # budgets at which the envelope is looked at


@dataclass(frozen=True)
class Best:
    """The size at which a budget does best."""

    flops: float
    parameters: float
    loss: float
    sizes: int
    """Runs, or curves, that were compared."""

    def tokens(self, factor: float) -> float:
        """D that the rest of the budget pays for, where C = factor x 6 N D."""
        return self.flops / (factor * 6 * self.parameters)


@dataclass(frozen=True)
class Frontier:
    """The best of several budgets, and the power law through them."""

    approach: str
    best: tuple[Best, ...]
    exponent: float
    """a of N = k C^a."""
    log_k: float

    def parameters(self, flops: float) -> float:
        """N that is best for a budget."""
        return float(np.exp(self.log_k + self.exponent * np.log(flops)))


def isoflop(points: Points) -> Frontier | str:
    """Approach 2: of each budget a parabola of loss over log N. A text says why there is none."""
    groups = _budgets(points)
    best = [own for C, group in groups if (own := _vertex(C, group)) is not None]
    if len(best) < LEAST_BUDGETS:
        return (
            f"iso-FLOP parabolas need {LEAST_BUDGETS} budgets with {LEAST_SIZES} sizes each, of "
            f"which one is better than both its neighbours; there are {len(best)}"
        )
    return _through("iso-FLOP parabolas", best)


def envelope(points: Points) -> Frontier | str:
    """Approach 1: the lowest of the loss curves of all sizes. A text says why there is none.

    A size's curve is its points in order of C, between which log loss is linear in log C. Points of
    one run under way count only if its learning rate had come down by then.
    """
    curves = []
    for size in sorted(set(points.parameters)):
        own = points.take(points.parameters == size)
        order = np.argsort(own.flops)
        if len(own) > 1:
            curves.append((size, np.log(own.flops[order]), np.log(own.loss[order])))
    if len(curves) < LEAST_SIZES:
        return (
            f"the envelope needs {LEAST_SIZES} sizes with several amounts of data each; there are "
            f"{len(curves)}"
        )
    grid = np.linspace(min(c[1][0] for c in curves), max(c[1][-1] for c in curves), GRID)
    losses = np.array([np.interp(grid, x, y, np.inf, np.inf) for _, x, y in curves])
    covered = np.isfinite(losses).sum(axis=0) >= LEAST_SIZES
    first = losses.argmin(axis=0)
    low = np.isfinite(losses).argmax(axis=0)
    high = len(curves) - 1 - np.isfinite(losses[::-1]).argmax(axis=0)
    good = covered & (first > low) & (first < high)  # else the best size may be one not tried
    if len(set(first[good])) < LEAST_BUDGETS:
        return (
            "no two sizes are the best of a budget that smaller and larger ones have reached, too"
        )
    best = [
        Best(float(np.exp(grid[i])), float(curves[first[i]][0]), float(np.exp(losses[first[i], i])),
             int(np.isfinite(losses[:, i]).sum()))
        for i in np.flatnonzero(good)
    ]  # fmt: skip
    return _through("envelope of loss curves", best)


def _through(approach: str, best: Sequence[Best]) -> Frontier:
    """The power law through the best of several budgets, by least squares of log N."""
    log_c = np.log([own.flops for own in best])
    exponent, log_k = np.polyfit(log_c, np.log([own.parameters for own in best]), 1)
    return Frontier(approach, tuple(best), float(exponent), float(log_k))


def _budgets(points: Points) -> list[tuple[float, Points]]:
    """Runs by budget: as the points have it, else those whose C is about the same."""
    if points.budget is not None:
        return [(float(C), points.take(points.budget == C)) for C in sorted(set(points.budget))]
    order = np.argsort(points.flops)
    groups: list[list[int]] = []
    for i in order:
        if groups and points.flops[i] <= SAME_BUDGET * points.flops[groups[-1][0]]:
            groups[-1].append(int(i))
        else:
            groups.append([int(i)])
    members = (points.take(group) for group in groups)
    return [(float(np.exp(np.log(own.flops).mean())), own) for own in members]


def _vertex(C: float, group: Points) -> Best | None:
    """The lowest point of a budget's parabola. None: too few sizes, or none inside."""
    x: Array = np.log(group.parameters)
    if len(set(x)) < LEAST_SIZES:
        return None
    at = lowest(x, group.loss)
    return None if at is None else Best(C, float(np.exp(at[0])), at[1], len(set(x)))


def lowest(x: Array, loss: Array) -> tuple[float, float, float] | None:
    """Where a parabola of loss over x (n,) is lowest, the loss there, and its coefficient of x^2.

    None: it bends down, or is lowest outside of what was tried.
    """
    a, b, c = np.polyfit(x - x.mean(), loss, 2)
    if a <= 0:
        return None
    at = -b / (2 * a)
    if not x.min() - x.mean() < at < x.max() - x.mean():
        return None
    return float(at + x.mean()), float(c - b * b / (4 * a)), float(a)
