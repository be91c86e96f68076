"""Names for a change of numbers: unit, sign, offset, logarithm; the best that fits quantiles."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from math import log, pi, sqrt

import numpy as np

from data.drift.numbers import Floats, NumberSketch

SHARES = (np.arange(99) + 1) / 100
NEAR = 0.005  # of the spread: numbers so near count as equal (rounding by the conversion)
SIMILAR = 0.01
Function = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Change:
    """A monotone function that may lie between reference and candidate."""

    words: str
    function: Function


def _times(factor: float) -> Function:
    return lambda x: x * factor


def _both(a: str, b: str, factor: float) -> list[Change]:
    return [
        Change(f"unit changed: {a} -> {b} (x {factor:.9g})", _times(factor)),
        Change(f"unit changed: {b} -> {a} (x {1 / factor:.9g})", _times(1 / factor)),
    ]


UNITS = (
    *_both("degrees", "radians", pi / 180),
    *_both("degrees", "degrees E7", 1e7),
    *_both("feet", "metres", 0.3048),
    *_both("miles", "kilometres", 1.609344),
    *_both("pounds", "kilograms", 0.45359237),
    *_both("fraction", "percent", 100.0),
    Change("unit changed: Celsius -> Fahrenheit", lambda x: x * 1.8 + 32),
    Change("unit changed: Fahrenheit -> Celsius", lambda x: (x - 32) / 1.8),
    Change("unit changed: Celsius -> Kelvin", lambda x: x + 273.15),
    Change("unit changed: Kelvin -> Celsius", lambda x: x - 273.15),
    Change("unit changed: Fahrenheit -> Kelvin", lambda x: (x - 32) / 1.8 + 273.15),
    Change("unit changed: Kelvin -> Fahrenheit", lambda x: (x - 273.15) * 1.8 + 32),
    Change("sign flipped", lambda x: -x),
    Change("natural logarithm taken", lambda x: np.log(x)),
    Change("logarithm to base 10 taken", lambda x: np.log10(x)),
    Change("logarithm to base 2 taken", lambda x: np.log2(x)),
    Change("log(1 + x) taken", lambda x: np.log1p(x)),
    Change("natural logarithm undone", lambda x: np.exp(x)),
    Change("logarithm to base 10 undone", lambda x: np.power(10.0, x)),
)
# Factors of a thousand have no unit of their own: magnitude and name of the column decide.
SECONDS = ((3e8, 5e9, 0), (3e11, 5e12, 3), (3e14, 5e15, 6), (3e17, 5e18, 9))
TIME_UNITS = {0: "s", 3: "ms", 6: "us", 9: "ns"}
TIME = re.compile(r"time|date|epoch|stamp|created|updated|duration|latency|seconds|_m?s$|^ts$")
LENGTH = re.compile(r"dist|length|height|alt|depth|range|radius|elev|width|km|meter|metre|_m$")
MASS = re.compile(r"mass|weight|kg|load|gram")


def _thousands(reference: NumberSketch, column: str) -> list[Change]:
    start = next((e for low, high, e in SECONDS if low <= reference.median <= high), None)
    changes = []
    for power in (-9, -6, -3, 3, 6, 9):
        if start is not None and start + power in TIME_UNITS:
            words = f"unit changed: {TIME_UNITS[start]} -> {TIME_UNITS[start + power]} since 1970"
        else:
            words = f"unit changed: {_metric(column.lower(), power)}"
        changes.append(Change(f"{words} (x 1e{power:+d})", _times(10.0**power)))
    return changes


def _metric(column: str, power: int) -> str:
    families = [
        (TIME, ("s", "ms", "us", "ns")),
        (LENGTH, ("km", "m", "mm", "um")),
        (MASS, ("kg", "g", "mg", "ug")),
    ]
    steps = abs(power) // 3
    named = [names for pattern, names in families if pattern.search(column)]
    pairs = [(names[0], names[steps]) for names in (named[:1] or [n for _, n in families])]
    return " or ".join(f"{a} -> {b}" if power > 0 else f"{b} -> {a}" for a, b in pairs)


def tolerance(reference: NumberSketch, candidate: NumberSketch) -> float:
    """Largest `mismatch` of equal distributions: Kolmogorov-Smirnov at 1 %, and the grids."""
    counts = max(1, reference.count), max(1, candidate.count)
    return 0.02 + 1.63 * sqrt(1 / counts[0] + 1 / counts[1])


def mismatch(
    reference: NumberSketch, candidate: NumberSketch, function: Function | None = None
) -> float:
    """Kolmogorov-Smirnov distance of the candidate from the reference after `function`.

    1 when the function is not defined on the reference, or a side has no numbers.
    """
    if not (reference.count and candidate.count):
        return 1.0
    with np.errstate(all="ignore"):
        x = reference.quantiles(SHARES)
        x = x if function is None else function(x)
    if not np.isfinite(x).all():
        return 1.0
    shares = SHARES
    if x[-1] < x[0]:
        shares = 1 - shares
    low, high = candidate.quantiles(np.array([0.05, 0.95]))
    near = NEAR * (high - low) + 1e-9 * abs(high)
    below, to = candidate.below(x - near)[0], candidate.below(x + near)[1]
    return float(np.maximum(np.maximum(below - shares, shares - to), 0).max())


def explain_numbers(reference: NumberSketch, candidate: NumberSketch, column: str) -> str | None:
    """The best name for how the candidate's numbers differ; None if they don't or none fits."""
    limit = tolerance(reference, candidate)
    if mismatch(reference, candidate) <= limit or not (reference.count and candidate.count):
        return None
    known = [*UNITS, *_thousands(reference, column)]
    free = _free(reference, candidate)
    for changes in (known, free):
        fits = [(mismatch(reference, candidate, c.function), i) for i, c in enumerate(changes)]
        best = min(fit for fit, _ in fits)
        if best <= limit:  # the first of those that are about as good, as log x and log(1 + x)
            place = next(i for fit, i in fits if fit <= best + SIMILAR)
            return f"{changes[place].words} ({medians(reference, candidate)})"
    return None


def _free(reference: NumberSketch, candidate: NumberSketch) -> list[Change]:
    """Changes with a constant that is taken from the middle of both."""
    before, after = reference.median, candidate.median
    offset = float(np.mean((candidate.quantiles(SHARES) - reference.quantiles(SHARES))[9:90]))
    changes = [Change(f"constant offset {offset:+.6g}", lambda x: x + offset)]
    if before and after and abs(log(abs(after / before))) > 1e-3:
        factor = after / before
        changes.append(Change(f"multiplied by {factor:.6g}", _times(factor)))
    return changes


def medians(reference: NumberSketch, candidate: NumberSketch) -> str:
    """The medians, before -> after."""
    return f"median {shown(reference.median)} -> {shown(candidate.median)}"


def shown(number: float) -> str:
    """A number of a data set, short."""
    if number and not 1e-3 <= abs(number) < 1e15:
        return f"{number:.4g}"
    if abs(number) >= 1000:
        return f"{number:.0f}"
    return f"{number:.4g}"
