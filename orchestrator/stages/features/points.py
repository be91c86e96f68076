"""Problems in the plane: examples drawn by their number, so that a stream is nowhere held.

Example i follows from the seed and i alone, whoever asks for it and when. n examples; coordinates
reach from about -6 to 6.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.messages import did_you_mean
from data.order import Ids, Words, mix, words

Points = NDArray[np.float64]
FEATURES: Mapping[str, Callable[[Points, Points], Points]] = {
    "x": lambda x, y: x,
    "y": lambda x, y: y,
    "xx": lambda x, y: x * x,
    "yy": lambda x, y: y * y,
    "xy": lambda x, y: x * y,
    "sin_x": lambda x, y: np.sin(x),
    "sin_y": lambda x, y: np.sin(y),
}
"""What a model may see of a point (x, y), by name."""
REACH = 6.0
"""Coordinates that are drawn lie between this and its negative, but for noise."""


def features(names: Sequence[str], points: Points) -> Points:
    """The features (n, F) of points (n, 2)."""
    x, y = points.T
    return np.stack([FEATURES[name](x, y) for name in names], 1)


def check_features(names: Sequence[str]) -> None:
    """Raise ValueError for a feature that a point does not have."""
    for name in names:
        if name not in FEATURES:
            raise ValueError(
                f"stage.features: a point has no feature {name}{did_you_mean(name, FEATURES)}; it "
                f"has {', '.join(FEATURES)}"
            )


def draw(problem: str, seed: int, noise: float, numbers: Ids) -> tuple[Points, Points]:
    """Points (n, 2) and what is to be told of them (n,), for the examples of these numbers (n,)."""
    uniform = _Uniform(f"{problem} {seed}", numbers)
    points, told = PROBLEMS[problem](uniform)
    if noise:
        points = points + noise * np.stack([uniform.normal(), uniform.normal()], 1)
    return points, told


class _Uniform:
    """Columns (n,) of independent uniform numbers in [0, 1), one call after another."""

    def __init__(self, key: str, numbers: Ids) -> None:
        self._key, self._numbers, self._column = key.encode(), numbers.astype(np.uint64), 0

    def __call__(self) -> Points:
        first, second = words(self._key + b" %d" % self._column, 2)
        self._column += 1
        drawn: Words = mix(mix(self._numbers ^ first) + second)
        return (drawn >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self) -> Points:
        """Standard normal numbers (Box and Muller 1958)."""
        radius, angle = np.sqrt(-2 * np.log(1 - self())), 2 * np.pi * self()
        drawn: Points = radius * np.cos(angle)
        return drawn


def _polar(radius: Points, angle: Points) -> Points:
    return np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1)


def _gauss(uniform: _Uniform) -> tuple[Points, Points]:
    """Two clouds."""
    kind = np.floor(2 * uniform())
    return np.stack([uniform.normal(), uniform.normal()], 1) + 4 * kind[:, None] - 2, kind


def _circle(uniform: _Uniform) -> tuple[Points, Points]:
    """A disc inside of a ring."""
    kind = np.floor(2 * uniform())
    radius = np.where(kind == 1, 2.5 * np.sqrt(uniform()), 3.5 + 2.0 * uniform())
    return _polar(radius, 2 * np.pi * uniform()), kind


def _xor(uniform: _Uniform) -> tuple[Points, Points]:
    """Four squares, of which those with the same sign of x and y are one class."""
    points = np.stack([10 * uniform() - 5, 10 * uniform() - 5], 1)
    points += 0.3 * np.sign(points)
    return points, (points[:, 0] * points[:, 1] > 0).astype(np.float64)


def _spiral(uniform: _Uniform) -> tuple[Points, Points]:
    """Two arms that go around the middle."""
    kind, along = np.floor(2 * uniform()), uniform()
    return _polar(5 * along, 2 * np.pi * 1.75 * along + np.pi * kind), kind


def _maximum(uniform: _Uniform) -> tuple[Points, Points]:
    """The larger of two numbers."""
    points = np.stack([2 * uniform() - 1, 2 * uniform() - 1], 1)
    return points, points.max(1)


PROBLEMS: Mapping[str, Callable[[_Uniform], tuple[Points, Points]]] = {
    "gauss": _gauss,
    "circle": _circle,
    "xor": _xor,
    "spiral": _spiral,
    "maximum": _maximum,
}
"""By name; each gives points (n, 2) and a class or number (n,)."""
