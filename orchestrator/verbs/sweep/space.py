"""The search space of a sweep: settings with their values, as what is typed for a trial.

An axis is a setting with several values, or a list of alternatives of several overrides each. A
point of the space is a value for each axis, by its name; the values of choices are texts.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

Value = str | int | float
Point = dict[str, Value]


@dataclass(frozen=True)
class Choices:
    """A setting with a list of values, or alternatives of several overrides."""

    name: str
    words: dict[str, list[str]]
    """The overrides of each value, by its text."""

    @property
    def count(self) -> int:
        """Values."""
        return len(self.words)

    def at(self, index: int) -> Value:
        """One of the values, from 0 on."""
        return list(self.words)[index]

    def place(self, share: float) -> Value:
        """The value at a share in [0, 1) of the axis: each has an equal part of it."""
        return self.at(int(share * self.count))

    def typed(self, value: Value) -> list[str]:
        """The overrides that give this value."""
        return self.words[str(value)]


@dataclass(frozen=True)
class Numbers:
    """A setting with numbers from `low` to `high`, both of them included."""

    name: str
    sign: str
    """"", + or ++ before the name."""
    low: float
    high: float
    step: float | None
    """Between two values. None: any real number."""
    whole: bool
    log: bool
    """Whether a factor, not a difference, is what matters."""

    @property
    def count(self) -> int | None:
        """Values; None: without end."""
        return None if self.step is None else round((self.high - self.low) / self.step) + 1

    def at(self, index: int) -> Value:
        """One of the values, from 0 on."""
        assert self.step is not None
        low, step = Decimal(str(self.low)), Decimal(str(self.step))  # 0.3, not 0.30000000000000004
        return self._number(float(low + index * step))

    def place(self, share: float) -> Value:
        """The value at a share in [0, 1) of the axis; of few values each has an equal part."""
        low, high = self.low, self.high
        if self.step is not None:
            half = self.step / 2
            low, high = (low - half, high + half) if not self.log else (low, high + 1)
        if self.log:
            found = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
            return self._number(math.floor(found) if self.whole else found)
        found = low + share * (high - low)
        if self.step is not None:
            return self.nearest(found)
        return self._number(found)

    def nearest(self, number: float) -> Value:
        """The value of the axis that is nearest to a number."""
        if self.step is None:
            return self._number(number)
        most = (self.count or 1) - 1
        return self.at(min(max(round((number - self.low) / self.step), 0), most))

    def typed(self, value: Value) -> list[str]:
        """The overrides that give this value."""
        return [f"{self.sign}{self.name}={value!r}"]

    def _number(self, found: float) -> Value:
        within = min(max(found, self.low), self.high)
        return round(within) if self.whole else within


Axis = Choices | Numbers


@dataclass(frozen=True)
class Space:
    """What the trials of a sweep have in common, and what not, in the order that was typed."""

    parts: tuple[str | Axis, ...]

    @property
    def axes(self) -> list[Axis]:
        """Where trials differ."""
        return [part for part in self.parts if not isinstance(part, str)]

    @property
    def fixed(self) -> list[str]:
        """The overrides of every trial."""
        return [part for part in self.parts if isinstance(part, str)]

    @property
    def size(self) -> int | None:
        """Points; None: without end."""
        counts = [axis.count for axis in self.axes]
        return None if None in counts else math.prod(count or 0 for count in counts)

    def at(self, index: int) -> Point:
        """A point of the grid, from 0 on; the last axis changes first."""
        found: Point = {}
        for axis in reversed(self.axes):
            assert axis.count is not None  # of a grid
            index, own = divmod(index, axis.count)
            found[axis.name] = axis.at(own)
        return {axis.name: found[axis.name] for axis in self.axes}

    def place(self, shares: Sequence[float]) -> Point:
        """The point at these shares of the axes."""
        return {
            axis.name: axis.place(float(share))
            for axis, share in zip(self.axes, shares, strict=True)
        }

    def words(self, point: Mapping[str, Value]) -> list[str]:
        """What is typed for a trial at this point."""
        return [
            word
            for part in self.parts
            for word in ([part] if isinstance(part, str) else part.typed(point[part.name]))
        ]

    def own_words(self, point: Mapping[str, Value]) -> list[str]:
        """Those of them that not every trial has."""
        return [word for axis in self.axes for word in axis.typed(point[axis.name])]

    def probes(self) -> Iterator[tuple[Axis, Value, list[Point]]]:
        """Each value that an axis can be tried at, with points that have it: the ends of intervals.

        Beside it are the first and the last values of the other axes.
        """
        ends = [{axis.name: axis.place(share) for axis in self.axes} for share in (0.0, 1 - 1e-9)]
        for axis in self.axes:
            values = dict.fromkeys(end[axis.name] for end in ends)
            if isinstance(axis, Choices):
                values = dict.fromkeys(axis.words)
            for value in values:
                yield axis, value, [{**end, axis.name: value} for end in ends]

    def plain(self) -> list[Any]:
        """As JSON."""
        return [part if isinstance(part, str) else asdict(part) for part in self.parts]

    @classmethod
    def of(cls, plain: Sequence[Any]) -> "Space":
        """From JSON. Raises TypeError for what is none of a space."""
        return cls(tuple(own if isinstance(own, str) else _axis(own) for own in plain))


def _axis(plain: dict[str, Any]) -> Axis:
    return Choices(**plain) if "words" in plain else Numbers(**plain)
