"""Near duplicates: MinHash where the records are, then locality-sensitive hashing in one place.

1. A text is the set of its word n-grams. `signatures` keeps, of each set, one small number per
   permutation; the share of equal numbers of two texts estimates the Jaccard similarity of their
   sets (Broder 1997). The sketches are those of rensa (R-MinHash over all n-grams).
2. `near_duplicates` cuts signatures into bands: texts that are equal in a band become candidates.
3. Candidates whose estimate reaches the threshold are joined; of each group the earliest stays.

A signature depends on its text alone and the groups on the order of all records, so neither how
the input was cut into units nor the number of workers matters.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data.filters.rules import Rule, option
from data.filters.words import hash_ngrams, hash_words, normal_words
from data.records import Record

Signatures = NDArray[np.uint32]  # (B, P)
Ids = NDArray[np.int64]

SEED = 1
EMPTY = 0xFFFFFFFF  # fills the signature of a text without words, which is no copy of another
RECALL = 0.99  # least probability that two texts at the threshold become candidates
PIVOTS = 64  # in a larger bucket not every pair is compared
PAIRS = 1 << 16  # compared at once: 64 MiB at 128 permutations
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class NearDuplicates(Rule):
    """Texts that are almost the same as an earlier one."""

    example: ClassVar[str] = "{name: near_duplicates, threshold: 0.8}"
    packages: ClassVar[tuple[str, ...]] = ("rensa",)
    threshold: float = option(0.8, low=0.3, high=1)
    """Jaccard similarity of the n-grams from which two texts are copies."""
    permutations: int = option(128, low=16, high=1024)
    """Numbers per signature; the estimate's standard error is at most 0.5 / sqrt(permutations)."""
    words: int = option(5, low=1, high=50)
    """Words per n-gram; a shorter text is one n-gram."""

    @property
    def rows(self) -> int:
        """Numbers per band: the most that let two texts at the threshold meet, with RECALL.

        With b bands of r numbers, texts of similarity s meet with probability 1 - (1 - s^r)^b.
        """
        rows = 1
        while rows < self.permutations and self._recall(rows + 1) >= RECALL:
            rows += 1
        return rows

    @property
    def bands(self) -> int:
        """Bands of a signature."""
        return self.permutations // self.rows

    def _recall(self, rows: int) -> float:
        return 1 - (1 - self.threshold**rows) ** (self.permutations // rows)


def compared_text(record: Record) -> str:
    """What is compared of a record: its text, or those of a pair one after the other."""
    return "\n".join(record.texts)


def signatures(texts: Sequence[str], settings: NearDuplicates) -> Signatures:
    """The signature of each text, (B, P): 4 P bytes each."""
    from rensa import RMinHash

    result = np.full((len(texts), settings.permutations), EMPTY, np.uint32)
    grams = []
    for text in texts:
        hashes = hash_words(normal_words(text))
        grams.append(hash_ngrams(hashes, min(settings.words, max(1, len(hashes)))))
    filled = np.flatnonzero([len(g) for g in grams])
    if len(filled):
        offsets = np.cumsum([0, *(len(grams[k]) for k in filled)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            np.concatenate(grams), offsets, settings.permutations, SEED
        )
        result[filled] = matrix.to_rows()
    return result


def near_duplicates(
    units: Sequence[Signatures], settings: NearDuplicates
) -> list[dict[int, tuple[int, int]]]:
    """Which records are near copies of which.

    Args:
        units: the signatures of each unit's records (B, P), in unit order; of records that exact
            duplicates left. They may be memory maps: beside them, about 100 bytes a
            record are held at once.
        settings: those the signatures were made with.

    Returns:
        For each unit: row of a near copy -> (unit, row) of the earliest record of its group,
        which stays.
    """
    together = _Together(units)
    groups = _groups(together, settings)
    copies = np.flatnonzero(groups != np.arange(len(groups)))
    found: list[dict[int, tuple[int, int]]] = [{} for _ in units]
    for (unit, row), original in zip(
        together.places(copies), together.places(groups[copies]), strict=True
    ):
        found[unit][row] = original
    return found


class _Together:
    """The signatures of all units under one count."""

    def __init__(self, units: Sequence[Signatures]) -> None:
        self.units = units
        self.starts = np.cumsum([0, *map(len, units)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, ids: Ids) -> Signatures:
        """Signatures by id (B, P)."""
        unit = np.searchsorted(self.starts, ids, side="right") - 1
        taken = np.empty((len(ids), self.units[0].shape[1]), np.uint32)
        for number in np.unique(unit):
            chosen = unit == number
            taken[chosen] = self.units[number][ids[chosen] - self.starts[number]]
        return taken

    def keys(self, band: slice) -> NDArray[np.uint64]:
        """One number per record for a band (N,); other contents rarely share one, and then only
        become candidates."""
        keys = np.zeros(len(self), np.uint64)
        for number, unit in enumerate(self.units):
            part = keys[self.starts[number] : self.starts[number + 1]]
            for column in unit[:, band].T:
                part *= _MULTIPLIER
                part += column
        return keys

    def filled(self) -> Ids:
        """Ids of the records that have words."""
        return np.flatnonzero(np.concatenate([(unit != EMPTY).any(axis=1) for unit in self.units]))

    def places(self, ids: Ids) -> Iterator[tuple[int, int]]:
        """Unit and row of each id."""
        unit = np.searchsorted(self.starts, ids, side="right") - 1
        return zip(unit.tolist(), (ids - self.starts[unit]).tolist(), strict=True)


def _groups(together: _Together, settings: NearDuplicates) -> Ids:
    """The earliest record of each record's group (N,)."""
    labels = np.arange(len(together))
    filled = together.filled() if len(together) else labels
    for band in range(settings.bands if len(filled) else 0):
        keys = together.keys(slice(band * settings.rows, (band + 1) * settings.rows))[filled]
        order = np.argsort(keys, kind="stable")  # equal keys stay in the order of the records
        ordered, members = keys[order], filled[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        sizes = np.diff(starts, append=len(members))
        # Most buckets are one group: join all members with the first, then look at what is left.
        firsts = np.repeat(members[starts], sizes)
        labels = _join(together, labels, firsts, members, settings.threshold)
        left = np.logical_or.reduceat(labels[firsts] != labels[members], starts)
        buckets = [
            members[starts[k] : starts[k] + sizes[k]] for k in np.flatnonzero(left & (sizes > 2))
        ]
        for x, y in _pairs(buckets, labels):
            labels = _join(together, labels, x, y, settings.threshold)
    return labels


def _pairs(buckets: Sequence[Ids], labels: Ids) -> Iterator[tuple[Ids, Ids]]:
    """Pairs of records of the same bucket, about PAIRS at a time.

    In a large bucket only the first record of each of the first PIVOTS groups is compared with
    the later ones, so that a bucket does not cost the square of its size.
    """
    x: list[Ids] = []
    y: list[Ids] = []
    for members in buckets:
        pivots = members
        if len(members) > PIVOTS:
            _, first = np.unique(labels[members], return_index=True)
            pivots = members[np.sort(first)[:PIVOTS]]
        for pivot in pivots:
            later = members[members > pivot]
            x.append(np.full(len(later), pivot))
            y.append(later)
        if sum(map(len, x)) >= PAIRS:
            yield np.concatenate(x), np.concatenate(y)
            x, y = [], []
    if x:
        yield np.concatenate(x), np.concatenate(y)


def _join(together: _Together, labels: Ids, x: Ids, y: Ids, threshold: float) -> Ids:
    """Labels after joining the pairs (x, y) that are alike; those joined before are skipped."""
    apart = np.flatnonzero(labels[x] != labels[y])
    for start in range(0, len(apart), PAIRS):
        chosen = apart[start : start + PAIRS]
        a, b = x[chosen], y[chosen]
        alike = (together.take(a) == together.take(b)).mean(axis=1) >= threshold
        labels = _united(labels, a[alike], b[alike])
    return labels


def _united(labels: Ids, x: Ids, y: Ids) -> Ids:
    """Labels after the groups of x and y became one, labelled by its earliest record.

    A label is never above its record's id, so replacing the higher of two by the lower ends.
    """
    if len(x):
        labels = labels.copy()
    while len(x):
        low, high = np.minimum(labels[x], labels[y]), np.maximum(labels[x], labels[y])
        np.minimum.at(labels, high, low)
        while not np.array_equal(shorter := labels[labels], labels):
            labels = shorter
        apart = labels[x] != labels[y]
        x, y = x[apart], y[apart]
    return labels
