"""The gate for tables: do the columns of a candidate look like those of a reference?

Compared are missing values, ranges and distributions of numbers, categories, and the look and the
numbers of texts, each by a test that has a closed form (distances.py), at a level for which all of
them together have the stated rate of false alarms. Of times and counters only the unit is compared:
a later period has other ones without anything being wrong.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data.drift.columns import Check, checks_of, medians, unit_of_time, why_not_compared
from data.drift.distances import gap
from data.drift.gate_report import Finding, GateReport
from data.drift.table_sketches import ColumnSketch, TableSketch, merged
from data.files import DataError

ALPHA = 0.01
Columns = Mapping[str, ColumnSketch]


def gate_tables(
    reference: Sequence[TableSketch], candidate: Sequence[TableSketch], *, alpha: float = ALPHA
) -> GateReport:
    """Compare a candidate table with a reference, each given by the sketches of its parts.

    `alpha` is the chance that an unchanged candidate has a finding.

    Raises:
        DataError: a side has no rows.
    """
    for name, side in (("reference", reference), ("candidate", candidate)):
        if not sum(sketch.rows for sketch in side):
            raise DataError(f"the {name} of the drift gate has no rows ({len(side)} tables)")
    before, after = merged(reference).columns, merged(candidate).columns
    shared = [name for name in before if name in after]
    checks = [check for name in shared for check in checks_of(before[name], after[name])]
    level = alpha / max(1, len(checks))
    measured = [(check, *check.measure(level)) for check in checks]
    changed: dict[str, list[tuple[Check, float, float]]] = {}
    for check, value, limit in measured:
        if value > limit:
            changed.setdefault(check.column, []).append((check, value, limit))
    findings = _swapped(changed, before, after, level)
    for column in sorted(changed, key=lambda c: (-max(v / t for _, v, t in changed[c]), c)):
        check, value, limit = changed[column][0]
        words = f"column {column}: {check.words(level)}"
        others = tuple(other.words(level) for other, _, _ in changed[column][1:])
        findings.append(Finding(f"{column}: {check.statistic}", value, limit, words, others))
    return GateReport(
        (*_schema(before, after), *findings),
        {f"{check.column}: {check.statistic}": (value, limit) for check, value, limit in measured},
        alpha,
        tuple(_notes(before, after, shared)),
    )


def _schema(before: Columns, after: Columns) -> list[Finding]:
    """Columns that came, went, or are of another type or unit of time."""
    words = {name: f"removed ({own.type})" for name, own in before.items() if name not in after}
    words |= {name: f"added ({own.type})" for name, own in after.items() if name not in before}
    for name in before.keys() & after.keys():
        a, b = before[name], after[name]
        units = unit_of_time(a), unit_of_time(b)
        if a.kind != b.kind and a.missing < a.rows and b.missing < b.rows:
            words[name] = f"type changed: {a.type} -> {b.type}"
        elif all(units) and units[0] != units[1]:
            middle = medians(np.array(a.sample), np.array(b.sample))
            words[name] = f"unit changed: {units[0]} -> {units[1]} since 1970 ({middle})"
    return [
        Finding(f"{name}: schema", 1.0, 0.0, f"column {name}: {words[name]}")
        for name in (*before, *(n for n in after if n not in before))
        if name in words
    ]


def _notes(before: Columns, after: Columns, shared: Sequence[str]) -> list[str]:
    """Types that differ without a change of kind, and values that were not compared."""
    notes = []
    for name in shared:
        a, b = before[name], after[name]
        if a.kind == b.kind:
            if a.type != b.type:
                notes.append(f"{name}: {a.type} -> {b.type}, compared as {a.kind}")
            if why := why_not_compared(a, b):
                notes.append(f"{name}: {why}")
    return notes


def _swapped(
    changed: dict[str, list[tuple[Check, float, float]]],
    before: Columns,
    after: Columns,
    level: float,
) -> list[Finding]:
    """Columns of numbers that hold each other's values now; they are taken out of `changed`."""
    numbers = [column for column, own in changed.items() if own[0][0].statistic == "values"]
    sources = {}
    for column in numbers:
        fits = {
            other: gap(np.array(before[other].sample), np.array(after[column].sample), level)
            for other in numbers
        }
        nearest = min(fits, key=lambda other: fits[other][0], default=column)
        if fits[nearest][0] <= fits[nearest][1]:
            sources[column] = nearest
    while len(set(sources.values()) & sources.keys()) < len(sources):  # only whole exchanges
        sources = {c: s for c, s in sources.items() if s in sources and c in sources.values()}
    if len(set(sources.values())) < 2:
        return []
    taken = [changed.pop(column)[0] for column in sources]
    check, value, limit = max(taken, key=lambda own: own[1] / own[2])
    pairs = ", ".join(f"{column} holds what {sources[column]} held" for column in sources)
    return [Finding(f"{check.column}: values", value, limit, f"columns are swapped: {pairs}")]
