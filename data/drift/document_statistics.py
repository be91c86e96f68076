"""What the gate for documents measures on the counts of their sketches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.drift.calibration import MEASURES, Floats
from data.drift.sketches import CLASSES, SIZES

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Statistic:
    """A distance of two sides, each a dict of counts whose last axis is the histogram."""

    name: str
    kind: str
    """Which of MEASURES."""
    of: Callable[[Arrays], NDArray[Any]]

    def between(self, candidate: Arrays, reference: Arrays) -> Floats:
        """Distances (...) of counts (..., K)."""
        return MEASURES[self.kind](self.of(candidate), self.of(reference))


def _sizes(first: str, second: str) -> Callable[[Arrays], NDArray[Any]]:
    columns = [SIZES.index(first), SIZES.index(second)]
    return lambda counts: counts["sizes"][..., columns]


def _share(count: Callable[[Arrays], NDArray[Any]]) -> Callable[[Arrays], NDArray[Any]]:
    """(..., 2): yes, all -> yes, no."""

    def pair(counts: Arrays) -> NDArray[Any]:
        both = count(counts)
        return np.stack([both[..., 0], both[..., 1] - both[..., 0]], axis=-1)

    return pair


def _class_share(name: str) -> Callable[[Arrays], NDArray[Any]]:
    place = CLASSES.index(name)
    return _share(
        lambda c: np.stack([c["characters"][..., place], c["characters"].sum(-1)], axis=-1)
    )


STATISTICS = (
    Statistic("token lengths", "ordered", lambda c: c["token_lengths"]),
    Statistic("byte lengths", "ordered", lambda c: c["byte_lengths"]),
    Statistic("tokens", "histogram", lambda c: c["tokens"]),
    Statistic("bytes per token", "ratio", _sizes("bytes", "tokens")),
    Statistic("byte fallback", "rate", _share(_sizes("fallback", "tokens"))),
    Statistic("characters", "histogram", lambda c: c["characters"]),
    Statistic("digits", "rate", _class_share("digits")),
    Statistic("lines", "rate", _class_share("newlines")),
    Statistic("languages", "histogram", lambda c: c["languages"]),
    Statistic("duplicates", "rate", _share(_sizes("duplicates", "documents"))),
)
