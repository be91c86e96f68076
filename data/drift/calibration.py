"""Distances between histograms, and thresholds for many of them at once from simulated pairs.

The thresholds control the chance that *any* of the statistics raises a false alarm: each is
measured in standard deviations from its mean under "nothing changed", and the limit is a quantile
of the largest of them (the max-T of Westfall and Young 1993), so correlated statistics are not
corrected twice. A limit of a few deviations is widened like Student's t where the deviation itself
is an estimate from few units.
"""

import hashlib
from collections.abc import Mapping
from math import ceil, log
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
SMALLEST = {"histogram": 0.05, "ordered": 0.03, "rate": 0.02, "ratio": 0.02}
"""Distances too small to be worth a word, however many documents make them certain."""


def generator(seed: int, *key: object) -> np.random.Generator:
    """Random numbers that depend on the seed and the words of the key alone."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def _shares(counts: NDArray[Any]) -> Floats:
    total = counts.sum(-1, keepdims=True)
    return np.asarray(counts / np.maximum(total, 1), dtype=np.float64)


def _known(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray((a.sum(-1) > 0) & (b.sum(-1) > 0))


def jensen_shannon(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Jensen-Shannon distance of counts (..., K): root of the divergence in bits, 0..1."""
    p, q = _shares(a), _shares(b)
    middle = np.maximum((p + q) / 2, 1e-300)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log2(p / middle), 0) + np.where(
            q > 0, q * np.log2(q / middle), 0
        )
    return np.where(_known(a, b), np.sqrt(np.maximum(terms.sum(-1) / 2, 0)), 0)


def kolmogorov_smirnov(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Largest difference between the cumulative shares of ordered bins (..., K), 0..1."""
    apart = np.abs(np.cumsum(_shares(a), -1) - np.cumsum(_shares(b), -1)).max(-1)
    return np.where(_known(a, b), apart, 0)


def rate_difference(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """Difference of asin(sqrt(rate)), whose noise is alike at all rates; (..., 2): yes, no."""
    angles = [np.arcsin(np.sqrt(np.clip(_shares(x)[..., 0], 0, 1))) for x in (a, b)]
    return np.where(_known(a, b), np.abs(angles[0] - angles[1]), 0)


def log_ratio(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    """|log of the ratio of two ratios|; (..., 2): numerator, denominator."""
    logs = [np.log(np.maximum(x[..., 0], 1) / np.maximum(x[..., 1], 1)) for x in (a, b)]
    return np.where(_known(a, b), np.abs(logs[0] - logs[1]), 0)


MEASURES = {
    "histogram": jensen_shannon,
    "ordered": kolmogorov_smirnov,
    "rate": rate_difference,
    "ratio": log_ratio,
}


def unseen(kind: str, reference: float, candidate: float, level: float) -> float:
    """The distance when as many items of a kind the reference lacks appear as chance allows.

    k items of a rare kind all fall on the candidate's side with chance (n_c / (n_c + n_r))^k,
    which no resampling of a reference without that kind can show.

    Args:
        kind: of the measure, histogram or rate.
        reference: independent items in the reference (n_r).
        candidate: independent items in the candidate (n_c).
        level: the chance that is allowed.
    """
    if not reference or not candidate:
        return 0.0
    k = min(ceil(log(1 / level) / log((candidate + reference) / candidate)), candidate)
    return float(MEASURES[kind](np.array([0, reference]), np.array([k, candidate - k])))


def student_inflation(level: float, degrees: int) -> float:
    """Student's t quantile over the normal one at 1 - level (Cornish-Fisher, 3 terms)."""
    z = NormalDist().inv_cdf(1 - level)
    t = z + (z**3 + z) / (4 * degrees)
    t += (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
    t += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    return t / z


def thresholds(
    null: Mapping[str, Floats], least: Mapping[str, float], alpha: float, widen: float = 1.0
) -> dict[str, float]:
    """A threshold per statistic, such that all hold together with chance 1 - alpha.

    Args:
        null: statistic -> values when nothing changed (replicates,), drawn jointly.
        least: statistic -> smallest threshold.
        alpha: chance of any false alarm.
        widen: factor on the deviations.
    """
    if not null:
        return {}
    values = np.stack(list(null.values()))  # (statistics, replicates)
    mean, deviation = values.mean(1), values.std(1)
    scaled = (values - mean[:, None]) / np.where(deviation > 0, deviation, 1)[:, None]
    largest = np.sort(scaled.max(0))
    rank = min(ceil((1 - alpha) * (len(largest) + 1)), len(largest))
    limit = mean + largest[rank - 1] * widen * deviation
    return {name: max(float(limit[i]), least[name]) for i, name in enumerate(null)}
