"""Proof that a run lost and repeated nothing: a sum of hashes that any order of work gives.

Each edge of a trained stretch of tokens has a 128-bit keyed hash of (dataset, epoch, row, edge);
a stretch adds the hash of its end and takes away that of its start. The stretches of a row that
is trained whole add up to the same whatever their lengths. The sum over a run says how often
stretches start and end at each place, so how often each token was trained on: two runs with the
same sum trained on the same tokens the same number of times, but for a chance of about 2^-128.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from data.files import DataError
from data.order.mixture import Mixture
from data.order.permutation import Words, mix, words

CHUNK = 2**16  # rows that are recomputed at a time


def dataset_keys(fingerprints: Mapping[str, str]) -> Words:
    """Hash keys (D, 6) of datasets, in the order of `fingerprints`, name to fingerprint."""
    identities = (f"multiset\0{name}\0{own}" for name, own in fingerprints.items())
    digests = (hashlib.blake2b(text.encode(), digest_size=32).digest() for text in identities)
    return np.stack([words(digest, 6) for digest in digests])


@dataclass(frozen=True)
class Multiset:
    """Two independent sums mod 2^64; those of workers are added with `combine`."""

    first: int = 0
    second: int = 0

    def add(
        self, keys: Words, epochs: ArrayLike, rows: ArrayLike, starts: ArrayLike, stops: ArrayLike
    ) -> "Multiset":
        """With stretches of rows added.

        Args:
            keys: (B, 6) or (6,), from `dataset_keys`.
            epochs: (B,) or one number, as the next three.
            rows: of the dataset.
            starts: first token in the row; part x L for a sequence of length L.
            stops: past the last token in the row.
        """
        epoch, row, start, stop = (
            np.atleast_1d(np.asarray(x)).astype(np.uint64) for x in (epochs, rows, starts, stops)
        )
        sums = []
        for half in (keys[..., :3], keys[..., 3:]):
            own = mix(mix(row ^ half[..., 0]) + (epoch ^ half[..., 1])) ^ half[..., 2]
            # Multiplied by an odd number, so that edges and rows don't mix by small differences.
            edges = [mix(own + edge * np.uint64(0x9E3779B97F4A7C15)) for edge in (stop, start)]
            sums.append(int((edges[0] - edges[1]).sum(dtype=np.uint64)))
        return self.combine(*sums)

    def combine(self, first: int, second: int) -> "Multiset":
        """With the sums of others added; they may be negative, as signed all-reduces give."""
        return Multiset((self.first + first) % 2**64, (self.second + second) % 2**64)

    @property
    def sums(self) -> tuple[int, int]:
        """Both sums, 0..2^64-1."""
        return self.first, self.second

    @property
    def hex(self) -> str:
        """32 hexadecimal digits."""
        return f"{self.first:016x}{self.second:016x}"

    @staticmethod
    def from_hex(text: object) -> "Multiset":
        """The inverse of `hex`; DataError for anything else."""
        if not isinstance(text, str) or not re.fullmatch("[0-9a-f]{32}", text):
            raise DataError(f"data state: multiset {text!r} must be 32 hexadecimal digits")
        return Multiset(int(text[:16], 16), int(text[16:], 16))


def expected_multiset(
    mixture: Mixture, keys: Words, row_tokens: int, start: int, stop: int
) -> Multiset:
    """What a run must have added between two cursors if it lost and repeated nothing.

    Args:
        keys: (D, 6) of `mixture.names`.
        start: cursor, in tokens of the stream.
        stop: cursor, at least `start`.
    """
    found = Multiset()
    rows = range(start // row_tokens, -(-stop // row_tokens))
    for first in rows[::CHUNK]:
        positions = np.arange(first, min(first + CHUNK, rows.stop))
        draw = mixture(positions)
        starts = np.maximum(start - positions * row_tokens, 0)
        stops = np.minimum(stop - positions * row_tokens, row_tokens)
        found = found.add(keys[draw.dataset], draw.epoch, draw.row, starts, stops)
    return found
