"""Sketches of numbers: exact histograms on grids whose width only grows, so merging is exact.

A grid has cells of width 2^e that begin at multiples of it; e is the smallest for which at most
CELLS cells are occupied. Each cell of width 2^(e+1) is two of width 2^e, so the grid of a union can
be computed from the grids of its parts: merging is exact, associative and commutative. A linear
grid resolves bulk and offsets (times since 1970), two logarithmic ones heavy tails and signs.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import frexp
from typing import Any

import numpy as np
from numpy.typing import NDArray

CELLS = 48
FINEST = 40  # a linear cell is at least 2^-40 of the largest number
SMALLEST_EXPONENT = -1073  # of a float that is not 0
LOG_FINEST = -6  # a logarithmic cell is at least 1/64 octave
LOG_OFFSET = 1100  # makes the logarithm of every float positive
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Occupied cells of width 2^exponent: number of the cell -> count."""

    exponent: int
    cells: Mapping[int, int]

    @staticmethod
    def of(keys: Counts, counts: Counts, exponent: int) -> "Grid":
        """From cells (N,) of width 2^exponent, which are widened as far as CELLS asks."""
        order = np.argsort(keys)
        keys, ends = keys[order], np.cumsum(counts[order])
        while True:
            last = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)) if len(keys) else keys
            keys, ends = keys[last], ends[last]
            if len(keys) <= CELLS:
                sums = np.diff(ends, prepend=0).tolist()
                return Grid(exponent, dict(zip(keys.tolist(), sums, strict=True)))
            keys, exponent = keys >> 1, exponent + 1

    def widened(self, exponent: int) -> dict[int, int]:
        """Counts of cells of width 2^exponent, which is not smaller than now."""
        cells: dict[int, int] = {}
        for cell, count in self.cells.items():
            wide = cell >> (exponent - self.exponent)
            cells[wide] = cells.get(wide, 0) + count
        return cells

    def merge(self, other: "Grid") -> "Grid":
        """Of both."""
        if not (self.cells and other.cells):
            return self if self.cells else other
        exponent = max(self.exponent, other.exponent)
        parts = [self.widened(exponent), other.widened(exponent)]
        keys = np.array([cell for part in parts for cell in part], dtype=np.int64)
        counts = np.array([count for part in parts for count in part.values()], dtype=np.int64)
        return Grid.of(keys, counts, exponent)

    def to_list(self) -> list[Any]:
        """JSON-able: exponent, first cell, gaps between cells, counts."""
        cells = sorted(self.cells)
        gaps = np.diff(cells).tolist() if cells else []
        return [self.exponent, cells[:1], gaps, [self.cells[cell] for cell in cells]]

    @staticmethod
    def from_list(content: list[Any]) -> "Grid":
        """Inverse of `to_list`."""
        exponent, first, gaps, counts = content
        cells = np.cumsum([*first, *gaps]).tolist() if first else []
        return Grid(exponent, dict(zip(map(int, cells), counts, strict=True)))


def _log(values: Floats) -> Floats:
    """Of positive numbers: log2 made of straight lines between powers of 2, exact in floats."""
    mantissa, exponent = np.frexp(values)
    return np.asarray(exponent + (2 * mantissa - 1) + LOG_OFFSET)


def _unlog(logs: Floats) -> Floats:
    whole = np.floor(logs)
    exponents = np.clip(whole - LOG_OFFSET, -1080, 1023).astype(int)
    return np.asarray(np.ldexp((logs - whole + 1) / 2, exponents))


def _log_grid(values: Floats, counts: Counts) -> Grid:
    keys = np.floor(_log(values) * 2.0**-LOG_FINEST).astype(np.int64)
    return Grid.of(keys, counts, LOG_FINEST)


_EMPTY = Grid(0, {})


def _finest(low: float, high: float) -> int:
    """The smallest exponent of a linear grid for numbers in this range."""
    largest = max(abs(low), abs(high))
    return (frexp(largest)[1] if largest else SMALLEST_EXPONENT) - FINEST


@dataclass(frozen=True)
class NumberSketch:
    """A multiset of finite numbers."""

    count: int = 0
    low: float = 0.0
    high: float = 0.0
    zeros: int = 0
    linear: Grid = field(default=_EMPTY)
    positive: Grid = field(default=_EMPTY)
    negative: Grid = field(default=_EMPTY)
    """Logarithmic, of the absolute values."""

    @staticmethod
    def of(values: NDArray[Any], counts: Counts | None = None) -> "NumberSketch":
        """From finite numbers (N,) and how often each stands there (N,)."""
        values = np.asarray(values, dtype=np.float64) + 0.0  # no -0.0
        if counts is None:
            counts = np.ones(len(values), dtype=np.int64)
        if not len(values):
            return NumberSketch()
        low, high = float(values.min()), float(values.max())
        finest = _finest(low, high)
        above, below = values > 0, values < 0
        scaled = np.ldexp(values, -finest)
        keys = np.floor(scaled).astype(np.int64)
        keys[below & (scaled == 0)] = -1  # underflow
        return NumberSketch(
            int(counts.sum()),
            low,
            high,
            int(counts[values == 0].sum()),
            Grid.of(keys, counts, finest),
            _log_grid(values[above], counts[above]) if above.any() else _EMPTY,
            _log_grid(-values[below], counts[below]) if below.any() else _EMPTY,
        )

    def merge(self, other: "NumberSketch") -> "NumberSketch":
        """Of both multisets."""
        if not (self.count and other.count):
            return self if self.count else other
        low, high = min(self.low, other.low), max(self.high, other.high)
        finest = _finest(low, high)
        parts = [
            Grid(max(g.exponent, finest), g.widened(max(g.exponent, finest)))
            for g in (self.linear, other.linear)
        ]
        return NumberSketch(
            self.count + other.count,
            low,
            high,
            self.zeros + other.zeros,
            parts[0].merge(parts[1]),
            self.positive.merge(other.positive),
            self.negative.merge(other.negative),
        )

    @cached_property
    def _curve(self) -> tuple[Floats, Floats]:
        """Numbers and the share below each, from the edges of all grids, both rising."""
        edges: list[tuple[Floats, Floats]] = []
        below = sum(self.negative.cells.values())
        for grid, start, back in (
            (self.linear, 0, lambda keys: np.ldexp(keys.astype(float), self.linear.exponent)),
            (self.positive, below + self.zeros, lambda keys: _unlog(_scaled(keys, self.positive))),
        ):
            edges.append(_edges(grid, start, back))
        if self.negative.cells:
            x, n = _edges(self.negative, 0, lambda keys: _unlog(_scaled(keys, self.negative)))
            edges.append((-x[::-1], below - n[::-1]))
        if self.zeros:
            edges.append((np.zeros(2), np.array([below, below + self.zeros], dtype=float)))
        edges.append((np.array([self.low, self.high]), np.array([0.0, self.count])))
        x = np.concatenate([part for part, _ in edges])
        share = np.concatenate([part for _, part in edges]) / max(1, self.count)
        order = np.lexsort((share, x))
        x, share = np.clip(x[order], self.low, self.high), share[order]
        return x, np.maximum.accumulate(share)

    def below(self, numbers: NDArray[Any]) -> tuple[Floats, Floats]:
        """Shares of the multiset (N,) that are < and <= each number, as far as the grids tell."""
        x, share = self._curve
        numbers = np.asarray(numbers, dtype=np.float64)
        inside = np.interp(numbers, x, share)
        left = np.searchsorted(x, numbers, side="left")
        right = np.searchsorted(x, numbers, side="right")
        at = left < right  # the number is an edge
        low = np.where(at, share[np.minimum(left, len(x) - 1)], inside)
        high = np.where(at, share[np.maximum(right - 1, 0)], inside)
        return np.where(numbers > self.high, 1.0, low), np.where(numbers > self.high, 1.0, high)

    def quantiles(self, shares: NDArray[Any]) -> Floats:
        """Numbers (N,) below which these shares lie."""
        x, share = self._curve
        keep = np.concatenate([[True], np.diff(share) > 0])
        keep[:-1] |= np.diff(share) > 0  # the last number of a flat stretch begins the next
        return np.asarray(np.interp(shares, share[keep], x[keep]))

    @property
    def median(self) -> float:
        """The middle number."""
        return float(self.quantiles(np.array([0.5]))[0])

    @property
    def mean(self) -> float:
        """From the grids: within a cell numbers count as spread evenly."""
        x, share = self._curve
        return float((np.diff(share) * (x[1:] + x[:-1]) / 2).sum())

    def to_list(self) -> list[Any]:
        """JSON-able."""
        grids = [grid.to_list() for grid in (self.linear, self.positive, self.negative)]
        return [self.count, self.low, self.high, self.zeros, *grids]

    @staticmethod
    def from_list(content: list[Any]) -> "NumberSketch":
        """Inverse of `to_list`."""
        return NumberSketch(*content[:4], *map(Grid.from_list, content[4:]))


def _scaled(keys: Counts, grid: Grid) -> Floats:
    return np.asarray(keys * 2.0**grid.exponent)


def _edges(grid: Grid, start: int, back: Callable[[Counts], Floats]) -> tuple[Floats, Floats]:
    """Numbers at both edges of each occupied cell, and how many lie below them."""
    cells = np.array(sorted(grid.cells), dtype=np.int64)
    ends = np.cumsum([start, *(grid.cells[cell] for cell in cells.tolist())]).astype(float)
    x = np.concatenate([back(cells), back(cells + 1)])
    return x, np.concatenate([ends[:-1], ends[1:]])


def aligned(sketches: list[NumberSketch]) -> tuple[Counts, Counts]:
    """Counts (shards, cells) in rising order on two common grids: linear; signs and logarithms."""
    zeros = np.array([[sketch.zeros] for sketch in sketches])
    negative = _common([sketch.negative for sketch in sketches])[:, ::-1]
    positive = _common([sketch.positive for sketch in sketches])
    linear = _common([sketch.linear for sketch in sketches])
    return linear, np.concatenate([negative, zeros, positive], axis=1)


def _common(grids: list[Grid]) -> Counts:
    exponent = max((grid.exponent for grid in grids if grid.cells), default=0)
    wide = [grid.widened(exponent) if grid.cells else {} for grid in grids]
    cells = sorted({cell for counts in wide for cell in counts})
    rows = [[counts.get(cell, 0) for cell in cells] for counts in wide]
    return np.array(rows, dtype=np.int64).reshape(len(grids), len(cells))
