"""Distances between two samples or two histograms, each with the largest that chance allows.

`level` is always the chance that two random parts of one set lie farther apart than the limit.
"""

from math import ceil, log, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SMALLEST_GAP = 0.03
"""Of samples: smaller distances are not worth a word, however many rows make them certain."""
SMALLEST_MOVE = 0.05
"""Of histograms."""
EXPECTED = 5  # fewest items of a bin for which the chi-squared distribution holds


def gap(a: NDArray[Any], b: NDArray[Any], level: float) -> tuple[float, float]:
    """Kolmogorov-Smirnov: the largest difference of the shares below any number, and its limit."""
    from scipy import stats

    if not (len(a) and len(b)):
        return 0.0, 1.0
    distance = float(stats.ks_2samp(a, b, method="asymp").statistic)
    limit = float(stats.kstwobign.isf(level)) / sqrt(len(a) * len(b) / (len(a) + len(b)))
    return distance, max(SMALLEST_GAP, limit)


def move(a: NDArray[Any], b: NDArray[Any], level: float) -> tuple[float, float]:
    """How far the shares of two histograms (K,) are apart, and its limit.

    The distance is the root of the sum of (share in a - share in b)^2 / share in both: the number
    that a chi-squared test looks at, without the sizes. Rare bins are put together before.
    """
    from scipy import stats

    if not (a.sum() and b.sum()):
        return 0.0, 1.0
    a, b = _without_rare(a, b)
    n, m = int(a.sum()), int(b.sum())
    apart = (a / n - b / m) ** 2 / ((a + b) / (n + m))
    limit = sqrt(stats.chi2.isf(level, max(1, len(a) - 1)) * (n + m) / (n * m))
    return float(np.sqrt(apart.sum())), max(SMALLEST_MOVE, limit)


def _without_rare(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The same histograms with the rarest bins summed up, until each holds EXPECTED on a side."""
    order = np.argsort(a + b, kind="stable")
    a, b = a[order], b[order]
    both = a + b
    filled = both > 0
    a, b, both = a[filled], b[filled], both[filled]
    least = EXPECTED * both.sum() / min(a.sum(), b.sum())
    rare = max(1, int(np.searchsorted(both, least)))
    while both[:rare].sum() < least and rare < len(both):
        rare += 1
    starts = np.array([0, *range(rare, len(both))])
    return np.add.reduceat(a, starts), np.add.reduceat(b, starts)


def outside(reference: tuple[float, float, int], b: Floats, level: float) -> tuple[float, float]:
    """Share of `b` that is outside the range of a reference (low, high, rows), and its limit.

    The k most extreme of all rows are all on the candidate's side with chance (n_b / n)^k.
    """
    low, high, rows = reference
    if not (rows and len(b)):
        return 0.0, 1.0
    most = ceil(log(level / 2) / log(len(b) / (len(b) + rows)))
    return float(((b < low) | (b > high)).mean()), 2 * most / len(b)


def student_over_normal(level: float, degrees: int) -> float:
    """By how much a limit grows when the standard deviation is an estimate from few values."""
    from scipy import stats

    return float(stats.t.isf(level, degrees) / stats.norm.isf(level))
