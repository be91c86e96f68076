"""The gate for tables: do candidate tables look like those of a reference, column by column?

As the gate for documents (data.drift), but rows are the units: pseudo tables are multinomial draws
from the reference's histograms, and, with several reference shards, whole shards.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from data.drift.calibration import MEASURES, SMALLEST, Floats, generator, thresholds, unseen
from data.drift.column_changes import alike, explain, family
from data.drift.gate_report import Finding, GateReport
from data.drift.numbers import Counts, NumberSketch, aligned
from data.drift.table_sketches import ColumnSketch, TableSketch
from data.files import DataError

ALPHA = 0.01
REPLICATES = 999
READ = 0.05  # a reading's components are compared if so many values of both sides follow it


@dataclass(frozen=True)
class _Statistic:
    """One histogram of one column."""

    column: str
    name: str
    kind: str
    reference: Counts
    """(reference shards, K)"""
    candidate: Counts
    """(K,)"""

    @property
    def label(self) -> str:
        return f"{self.column}: {self.name}"

    def between(self, candidate: NDArray[np.int64], reference: NDArray[np.int64]) -> Floats:
        return MEASURES[self.kind](candidate, reference)


def gate_tables(
    reference: Sequence[TableSketch],
    candidate: Sequence[TableSketch],
    *,
    alpha: float = ALPHA,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> GateReport:
    """Compare candidate tables, or the shards of one, with those of a reference.

    Args:
        reference: a sketch per shard.
        candidate: a sketch per shard.
        alpha: chance that an unchanged candidate is refused.
        replicates: simulated pairs; at least 10 / alpha tell the quantile well.
        seed: of the simulation; the same sketches and seed give the same report.

    Raises:
        DataError: a side has no rows.
    """
    for name, side in (("reference", reference), ("candidate", candidate)):
        if not sum(sketch.rows for sketch in side):
            raise DataError(f"the {name} of the drift gate has no rows ({len(side)} tables)")
    before, after = (reduce(lambda a, b: a.merge(b), side) for side in (reference, candidate))
    schema = _schema(before, after)
    shared = [name for name in before.columns if name in after.columns]
    statistics = [s for name in shared for s in _statistics(name, reference, candidate)]
    rng = generator(seed, "tables")
    observed = {s.label: float(s.between(s.candidate, s.reference.sum(0))) for s in statistics}
    level = alpha / max(1, len(statistics))
    least = {s.label: _least(s, level) for s in statistics}
    limits = thresholds(_drawn_rows(statistics, replicates, rng), least, alpha)
    if len(reference) > 1:  # what sets reference shards apart is no drift
        apart = _drawn_shards(statistics, len(candidate), replicates, rng)
        limits |= thresholds(apart, limits, alpha)
    checked = {name: (value, limits[name]) for name, value in observed.items()}
    findings = [*schema, *_findings(statistics, checked, before, after)]
    return GateReport(
        tuple(findings), checked, alpha, _how(len(reference), replicates), _notes(before, after)
    )


def _how(shards: int, replicates: int) -> str:
    if shards > 1:
        return f"thresholds: {replicates} pairs resampled from {shards} reference shards"
    return (
        f"thresholds: {replicates} pairs resampled from the rows within the only reference shard; "
        "weaker: how shards differ among themselves is not known"
    )


def _notes(before: TableSketch, after: TableSketch) -> tuple[str, ...]:
    notes = []
    for name, column in before.columns.items():
        other = after.columns.get(name)
        if other and column.type != other.type and family(column) == family(other):
            notes.append(f"{name}: {column.type} -> {other.type}, compared as {family(column)}")
        if other and column.kind == other.kind == "other":
            notes.append(f"{name}: of {column.type} only missing values are compared")
    return tuple(notes)


def _schema(before: TableSketch, after: TableSketch) -> list[Finding]:
    """Columns that came, went, or have another name or type."""
    gone = [c for name, c in before.columns.items() if name not in after.columns]
    new = [c for name, c in after.columns.items() if name not in before.columns]
    findings = []

    def add(column: str, words: str) -> None:
        findings.append(Finding(f"{column}: schema", 1.0, 0.0, f"column {column}: {words}"))

    def nearness(a: ColumnSketch, b: ColumnSketch) -> float:
        return difflib.SequenceMatcher(None, a.name.lower(), b.name.lower()).ratio()

    pairs = [(nearness(a, b), a, b) for a in gone for b in new if alike(a, b)]
    for _, a, b in sorted(pairs, key=lambda pair: (-pair[0], pair[1].name, pair[2].name)):
        if a in gone and b in new:
            gone.remove(a)
            new.remove(b)
            add(a.name, f"renamed to {b.name} (the values look the same)")
    for column in gone:
        add(column.name, f"removed ({column.type})")
    for column in new:
        add(column.name, f"added ({column.type})")
    for name, column in before.columns.items():
        other = after.columns.get(name)
        if other and family(column) != family(other) and column.missing < column.rows:
            add(name, explain(column, other))
    return findings


def _statistics(
    name: str, reference: Sequence[TableSketch], candidate: Sequence[TableSketch]
) -> list[_Statistic]:
    """What is compared of a column."""
    shards = [side.columns[name] for side in reference if name in side.columns]
    others = [side.columns[name] for side in candidate if name in side.columns]
    columns, split = [*shards, *others], len(shards)
    found = []

    def add(title: str, kind: str, rows: Counts) -> None:
        found.append(_Statistic(name, title, kind, rows[:split], rows[split:].sum(0)))

    def add_numbers(title: str, sketches: list[NumberSketch]) -> None:
        for grid, rows in zip(("", " (scale)"), aligned(sketches), strict=True):
            add(title + grid, "ordered", rows)

    gaps = np.array([[c.missing, c.rows - c.missing] for c in columns], dtype=np.int64)
    add("missing", "rate", gaps)
    families = {family(column) for column in columns}
    if families == {"number"}:
        add_numbers("values", [column.numbers for column in columns])
    elif families == {"text"}:
        texts = [column.text for column in columns]
        add("categories", "histogram", np.array([text.values.buckets for text in texts]))
        add("shapes", "histogram", np.array([text.shapes.buckets for text in texts]))
        add("lengths", "ordered", aligned([text.lengths for text in texts])[0])
        formats = sorted({date for text in texts for date in text.dates})
        if formats:
            rows = [[text.dates.get(date, 0) for date in formats] for text in texts]
            rest = [
                [max(0, text.lengths.count - sum(row))]
                for text, row in zip(texts, rows, strict=True)
            ]
            add("date formats", "histogram", np.concatenate([rows, rest], axis=1))
        for reading in _readings(shards, others):
            width = max(len(text.readings.get(reading, ())) for text in texts)
            for i in range(width):
                parts = [
                    text.readings[reading][i] if reading in text.readings else NumberSketch()
                    for text in texts
                ]
                add_numbers(f"{reading}, component {i + 1}" if width > 1 else reading, parts)
    return found


def _readings(shards: Sequence[ColumnSketch], others: Sequence[ColumnSketch]) -> list[str]:
    """How enough strings of both sides can be read as numbers."""
    sides = []
    for side in (shards, others):
        total = max(1, sum(column.text.lengths.count for column in side))
        counts: dict[str, int] = {}
        for column in side:
            for name, parts in column.text.readings.items():
                counts[name] = counts.get(name, 0) + parts[0].count
        sides.append({name for name, count in counts.items() if count >= READ * total})
    return sorted(sides[0] & sides[1])


def _least(statistic: _Statistic, level: float) -> float:
    """The smallest threshold."""
    least = SMALLEST[statistic.kind]
    if statistic.kind == "ordered":
        return least
    counts = float(statistic.reference.sum()), float(statistic.candidate.sum())
    return max(least, unseen(statistic.kind, *counts, level))


def _drawn_rows(
    statistics: Sequence[_Statistic], replicates: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Distances of pseudo tables with rows of all shards, statistic -> (replicates,)."""
    null = {}
    for s in statistics:
        total = s.reference.sum(0)
        n_r, n_c = int(total.sum()), int(s.candidate.sum())
        if not n_r or not n_c:
            null[s.label] = np.zeros(replicates)
            continue
        shares = total / (n_r * (1 + 1e-12))  # numpy refuses a sum above 1 by rounding
        pair = [rng.multinomial(n, shares, size=replicates) for n in (n_c, n_r)]
        null[s.label] = s.between(*pair)
    return null


def _drawn_shards(
    statistics: Sequence[_Statistic], candidates: int, replicates: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Distances of pseudo tables of whole reference shards, statistic -> (replicates,)."""
    null = {}
    chosen: dict[int, list[NDArray[np.int64]]] = {}  # one choice for all columns of R shards
    for s in statistics:
        R = len(s.reference)
        if R not in chosen:
            even = [1 / R] * R
            chosen[R] = [rng.multinomial(n, even, size=replicates) for n in (candidates, R)]
        left, right = (times @ s.reference for times in chosen[R])
        null[s.label] = s.between(left, right) * float(np.sqrt(R / max(1, R - 1)))
    return null


def _findings(
    statistics: Sequence[_Statistic],
    checked: Mapping[str, tuple[float, float]],
    before: TableSketch,
    after: TableSketch,
) -> list[Finding]:
    """One finding per changed column, or per two swapped ones; the farthest first."""
    worst: dict[str, tuple[float, str]] = {}
    for s in statistics:
        value, limit = checked[s.label]
        same_type = family(before.columns[s.column]) == family(after.columns[s.column])
        if value > limit and same_type:
            worst[s.column] = max(worst.get(s.column, (0.0, "")), (value / limit, s.label))
    swapped = _swapped(list(worst), before, after)
    findings = []
    for column in sorted(worst, key=lambda column: (-worst[column][0], column)):
        label = worst[column][1]
        a, b = before.columns[column], after.columns[column]
        other = swapped.get(column)
        if other and other < column:
            continue
        if other:
            words = f"columns {column} and {other} swapped"
        else:
            words = f"column {column}: {explain(a, b)}"
        findings.append(Finding(label, *checked[label], words, _examples(a, b)))
    return findings


def _swapped(columns: list[str], before: TableSketch, after: TableSketch) -> dict[str, str]:
    found: dict[str, str] = {}
    for a in columns:
        for b in columns:
            if a < b and a not in found and b not in found:
                crossed = alike(before.columns[a], after.columns[b])
                if crossed and alike(before.columns[b], after.columns[a]):
                    found |= {a: b, b: a}
    return found


def _examples(before: ColumnSketch, after: ColumnSketch) -> tuple[str, ...]:
    """The commonest values of a text column whose counts changed most."""
    if family(before) != "text":
        return ()
    lines = []
    for title, column in (("before", before), ("after", after)):
        values = ", ".join(f'"{value}"' for value, _ in column.text.values.common(3))
        lines.append(f"{title}: {values}")
    return tuple(lines)
