"""How many distinct items a multiset holds, and how often they repeat, from its smallest hashes."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE = 64  # hashes kept; the estimate is within about 1/sqrt(SAMPLE)
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Distinct:
    """The SAMPLE smallest hashes of a multiset and how often each was seen (KMV with counts).

    Bar-Yossef et al. 2002. A hash among the smallest of a union is so in each part that has it;
    so merged counts are exact.
    """

    seen: Mapping[int, int] = field(default_factory=dict)

    @staticmethod
    def of(hashes: NDArray[np.uint64], counts: Counts, size: int = SAMPLE) -> "Distinct":
        """From distinct hashes (N,) and how often each was seen (N,)."""
        if len(hashes) > size:
            chosen = np.argpartition(hashes, size - 1)[:size]
            hashes, counts = hashes[chosen], counts[chosen]
        order = np.argsort(hashes)
        return Distinct(dict(zip(hashes[order].tolist(), counts[order].tolist(), strict=True)))

    def merge(self, other: "Distinct", size: int = SAMPLE) -> "Distinct":
        """Of both multisets."""
        smallest = heapq.nsmallest(size, self.seen.keys() | other.seen.keys())
        return Distinct({h: self.seen.get(h, 0) + other.seen.get(h, 0) for h in smallest})

    def estimate(self, size: int = SAMPLE) -> int:
        """Number of distinct items: exact below `size`, else within about 1/sqrt(size)."""
        if len(self.seen) < size:
            return len(self.seen)
        return round((size - 1) / max(self.seen) * 2.0**64)

    def to_list(self) -> list[Any]:
        """JSON-able."""
        return [[f"{h:x}" for h in self.seen], list(self.seen.values())]

    @staticmethod
    def from_list(content: list[Any]) -> "Distinct":
        """Inverse of `to_list`."""
        return Distinct({int(h, 16): int(n) for h, n in zip(*content, strict=True)})
