"""What is compared of one column of two tables, and the words for what changed in it."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from math import pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.drift.distances import Floats, gap, move, outside
from data.drift.table_sketches import ColumnSketch

SHOWN = 3
FOLLOW = 0.9  # of the texts of a column must be numbers for the numbers to be compared
MOST_SHAPES = 32
UNITS = {
    "degrees -> radians": pi / 180,
    "radians -> degrees": 180 / pi,
    "fractions -> percent": 100.0,
    "percent -> fractions": 1 / 100,
    "x 1000, as seconds -> milliseconds": 1000.0,
    "/ 1000, as milliseconds -> seconds": 1 / 1000,
}
# Seconds since 1970 from 1979 to 2128, and the same in smaller units.
TIMES = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
EARLIEST, LATEST = 3e8, 5e9
_NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_GAP = r"(?:\s*[,;|]\s*|\s+)"
NUMBER = re.compile(_NUMBER)
NUMBERS = re.compile(rf"\s*[\[(]?\s*{_NUMBER}(?:{_GAP}{_NUMBER}){{0,2}}\s*[\])]?\s*")
DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(\D.*)?")


@dataclass(frozen=True)
class Check:
    """One comparison of a column."""

    column: str
    statistic: str
    measure: Callable[[float], tuple[float, float]]
    """Level -> distance, and the largest that chance allows."""
    words: Callable[[float], str]
    """Level -> what changed."""


def checks_of(a: ColumnSketch, b: ColumnSketch) -> list[Check]:
    """What is compared of a column, the most telling first."""
    before, after = (np.array([own.missing, own.rows - own.missing]) for own in (a, b))
    shares = [f"{own.missing / max(1, own.rows):.1%}" for own in (a, b)]
    missing = Check(
        a.name,
        "missing",
        lambda level: move(before, after, level),
        lambda level: f"missing values {shares[0]} -> {shares[1]}",
    )
    if a.kind != b.kind or why_not_compared(a, b) or not (a.sample and b.sample):
        return [missing]
    return [*(_text_checks(a, b) if a.kind == "text" else _number_checks(a, b)), missing]


def why_not_compared(a: ColumnSketch, b: ColumnSketch) -> str | None:
    """Why the values of two columns of one kind say nothing; None: they are compared."""
    if a.kind == "other":
        return f"values of type {a.type} are not compared"
    if a.kind == "time" or (unit_of_time(a) and unit_of_time(b)):
        return f"times are not compared: another period is no drift ({period(a)} -> {period(b)})"
    if a.kind == "number" and a.rising and b.rising:
        return "a counter is not compared (each value is above the one before)"
    return None


def unit_of_time(column: ColumnSketch) -> str | None:
    """In which unit numbers count the time since 1970; None if they seem not to."""
    low, high = column.low, column.high
    if column.kind != "number" or low is None or high is None:
        return None
    fits = (u for u, n in TIMES.items() if EARLIEST * n <= low and high <= LATEST * n)
    return next(fits, None)


def period(column: ColumnSketch) -> str:
    """From which day to which day the times of a column are."""
    factor = TIMES[unit_of_time(column) or "seconds"]
    ends = [end for end in (column.low, column.high) if end is not None]
    return "..".join(str(np.datetime64(int(end / factor), "s"))[:10] for end in ends)


def _number_checks(a: ColumnSketch, b: ColumnSketch) -> list[Check]:
    before, after = np.array(a.sample), np.array(b.sample)
    assert a.low is not None  # there is a sample
    assert a.high is not None
    ranges = f"range {_short(a.low)}..{_short(a.high)} -> {_short(b.low)}..{_short(b.high)}"
    known = (a.low, a.high, a.rows - a.missing)
    return [
        Check(
            a.name,
            "values",
            lambda level: gap(before, after, level),
            lambda level: (
                unit_words(before, after, level)
                or f"other values: {medians(before, after)}, {ranges}"
            ),
        ),
        Check(
            a.name,
            "range",
            lambda level: outside(known, after, level),
            lambda level: f"values outside the range so far: {ranges}",
        ),
    ]


def unit_words(before: Floats, after: Floats, level: float) -> str:
    """The change of unit that makes the second sample of the first, "" if none does."""
    fits = {words: gap(before * factor, after, level) for words, factor in UNITS.items()}
    best = min(fits, key=lambda words: fits[words][0])
    distance, limit = fits[best]
    return f"unit changed: {best} ({medians(before, after)})" if distance <= limit else ""


def _text_checks(a: ColumnSketch, b: ColumnSketch) -> list[Check]:
    """Numbers in the texts, else categories, else lengths; and what the texts look like."""
    one, other = _numbers(a), _numbers(b)
    if one is not None and other is not None and len(one) == len(other):
        return [
            Check(
                a.name,
                "numbers",
                lambda level: _farthest(one, other, level),
                lambda level: _numbers_words(one, other, level),
            ),
            _look_check(a, b),
        ]
    if (a.categories or b.categories) and not all(map(DATE.fullmatch, a.sample)):
        was, now = (own.categories or Counter(own.sample) for own in (a, b))
        x, y = _histograms(was, now)
        return [
            Check(
                a.name,
                "categories",
                lambda level: move(x, y, level),
                lambda level: category_words(was, now),
            )
        ]
    short, long = (np.array([len(text) for text in own.sample], dtype=float) for own in (a, b))
    return [
        _look_check(a, b),
        Check(
            a.name,
            "length",
            lambda level: gap(short, long, level),
            lambda level: f"length in characters: {medians(short, long)}",
        ),
    ]


def _look_check(a: ColumnSketch, b: ColumnSketch) -> Check:
    was, now = (Counter(map(_shape, own.sample)) for own in (a, b))
    x, y = _histograms(was, now)
    return Check(
        a.name, "look", lambda level: move(x, y, level), lambda level: _look(a, b, was, now)
    )


def _numbers(column: ColumnSketch) -> Floats | None:
    """The numbers in texts such as "48.1,11.5", (numbers per text, texts); None: it has others."""
    rows = [NUMBER.findall(text) for text in column.sample if NUMBERS.fullmatch(text)]
    widths = Counter(map(len, rows))
    if len(rows) < FOLLOW * len(column.sample) or len(widths) != 1:
        return None
    return np.array(rows, dtype=float).T


def _farthest(a: Floats, b: Floats, level: float) -> tuple[float, float]:
    """The distance and the limit of the component that changed most."""
    pairs = [gap(x, y, level / len(a)) for x, y in zip(a, b, strict=True)]
    return max(pairs, key=lambda pair: pair[0] / pair[1])


def _numbers_words(a: Floats, b: Floats, level: float) -> str:
    """Numbers in other places, else what changed at which place."""
    for places in permutations(range(len(a))):
        distance, limit = _farthest(a[list(places)], b, level)
        if distance <= limit:
            how = "swapped" if len(places) == 2 else "re-ordered"
            old, new = (",".join(str(p + 1) for p in own) for own in (sorted(places), places))
            was, now = (",".join(_short(np.median(part)) for part in side) for side in (a, b))
            return f"the numbers are {how}: {old} -> {new} (median {was} -> {now})"
    words = []
    for place, (x, y) in enumerate(zip(a, b, strict=True), start=1):
        distance, limit = gap(x, y, level / len(a))
        if distance > limit:
            change = unit_words(x, y, level) or f"other values: {medians(x, y)}"
            words.append(f"number {place}: {change}" if len(a) > 1 else change)
    return "; ".join(words)


def category_words(before: dict[str, int], after: dict[str, int]) -> str:
    """Categories that are new, gone, or have other shares: of these the ones that moved most."""
    a, b = ({n: c / sum(own.values()) for n, c in own.items()} for own in (before, after))
    parts, largest = [], 0.0
    for title, names, side in (
        ("new", b.keys() - a.keys(), b),
        ("vanished", a.keys() - b.keys(), a),
    ):
        most = sorted(names, key=lambda name: (-side[name], name))
        listed = ", ".join(f'"{name}" {side[name]:.1%}' for name in most[:SHOWN])
        parts += [f"{title} categories: {listed}"] if most else []
        largest = max([largest, *(side[name] for name in most)])
    moved = sorted(a.keys() & b.keys(), key=lambda name: (-abs(a[name] - b[name]), name))[:SHOWN]
    if moved and abs(a[moved[0]] - b[moved[0]]) > largest:  # else it is what came or went
        listed = ", ".join(f'"{name}" {a[name]:.1%} -> {b[name]:.1%}' for name in moved)
        parts.insert(0, f"other shares of the categories: {listed}")
    return "; ".join(parts)


def _shape(text: str) -> str:
    """Runs of digits as 9, of letters as a."""
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "9", text))


def _look(a: ColumnSketch, b: ColumnSketch, before: Counter[str], after: Counter[str]) -> str:
    """The commonest shapes, and a text of each side."""
    parts = []
    for column, shapes in ((a, before), (b, after)):
        shape, count = max(shapes.items(), key=lambda item: (item[1], item[0]))
        example = next(text for text in column.sample if _shape(text) == shape)
        parts.append((f'"{shape}" {count / len(column.sample):.0%}', f'"{example}"'))
    (old, was), (new, now) = parts
    return f"the texts look different: {old} -> {new} ({was} -> {now})"


def _histograms(a: dict[str, int], b: dict[str, int]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts of the same names (K,), at most MOST_SHAPES and the others together."""
    most = sorted(a.keys() | b.keys(), key=lambda n: (-a.get(n, 0) - b.get(n, 0), n))[:MOST_SHAPES]
    first, second = ([own.get(name, 0) for name in most] for own in (a, b))
    return (
        np.array([*first, sum(a.values()) - sum(first)]),
        np.array([*second, sum(b.values()) - sum(second)]),
    )


def medians(a: Floats, b: Floats) -> str:
    """The medians, before -> after."""
    return f"median {_short(np.median(a))} -> {_short(np.median(b))}"


def _short(number: Any) -> str:
    """A number of a data set, short."""
    if number and not 1e-3 <= abs(number) < 1e15:
        return f"{number:.4g}"
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.4g}"
