"""What changed in one column of a table, in words with numbers before -> after."""

import re
from collections.abc import Mapping
from math import sqrt

import numpy as np

from data.drift.calibration import jensen_shannon
from data.drift.category_changes import categories
from data.drift.explanations import explain_numbers, medians, mismatch, shown, tolerance
from data.drift.numbers import NumberSketch
from data.drift.table_sketches import ColumnSketch
from data.drift.text_columns import Shares, TextSketch

COVERED = 0.8  # of a column's values must follow a reading for it to speak for the column
Readings = Mapping[str, tuple[NumberSketch, ...]]


def alike(a: ColumnSketch, b: ColumnSketch) -> bool:
    """Whether both may be the same column under two names."""
    gaps = [column.missing / max(1, column.rows) for column in (a, b)]
    if family(a) != family(b) or abs(gaps[0] - gaps[1]) > 0.1:
        return False
    if family(a) == "number":
        return mismatch(a.numbers, b.numbers) <= tolerance(a.numbers, b.numbers)
    lengths = (a.text.lengths, b.text.lengths)
    noise = sqrt(6 * (1 / max(1, lengths[0].count) + 1 / max(1, lengths[1].count)))
    return mismatch(*lengths) <= tolerance(*lengths) and all(
        float(jensen_shannon(np.array(x.buckets), np.array(y.buckets))) <= 0.05 + 1.5 * noise
        for x, y in ((a.text.values, b.text.values), (a.text.shapes, b.text.shapes))
    )


def family(column: ColumnSketch) -> str:
    """Kinds that are compared with each other have one family."""
    return {"time": "number", "boolean": "text"}.get(column.kind, column.kind)


def explain(before: ColumnSketch, after: ColumnSketch) -> str:
    """The best words for what changed, "" if there are none."""
    if words := _recoded(before, after):
        return words
    if family(before) != family(after):
        return _type_changed(before, after)
    if family(before) == "number":
        return explain_numbers(before.numbers, after.numbers, before.name) or _spread(before, after)
    for find in (_dates, _numbers_in_text, categories, _shapes):
        if words := find(before.text, after.text, before.name):
            return words
    if pair := _moved(before.missing, before.rows, after.missing, after.rows):
        return f"missing values {pair}"
    return f"length in characters: {medians(before.text.lengths, after.text.lengths)}"


def _moved(a: int, of_a: int, b: int, of_b: int) -> str:
    """Shares before -> after, "" when they are about equal."""
    shares = a / max(1, of_a), b / max(1, of_b)
    return f"{shares[0]:.1%} -> {shares[1]:.1%}" if abs(shares[0] - shares[1]) > 0.005 else ""


def _recoded(before: ColumnSketch, after: ColumnSketch) -> str:
    """Missing values that became a code, or a code that became missing."""
    for first, then, words in ((before, after, "are now"), (after, before, "were once")):
        gap = first.missing / max(1, first.rows) - then.missing / max(1, then.rows)
        if gap < 0.005:
            continue
        for name, rise in _code_rises(first, then):
            if 0.5 * gap <= rise <= 2 * gap:
                pair = _moved(before.missing, before.rows, after.missing, after.rows)
                return f"missing values {words} {name}: missing {pair}"
    return ""


def _code_rises(first: ColumnSketch, then: ColumnSketch) -> list[tuple[str, float]]:
    """Codes whose share of the rows rose, the most risen first."""
    sides: list[dict[str, float]] = []
    for column in (first, then):
        counts = {f"{code:g}": n for code, n in column.codes.items()}
        counts |= {f'"{code}"': n for code, n in column.text.codes.items()}
        sides.append({name: n / max(1, column.rows) for name, n in counts.items()})
    rises = [(name, share - sides[0].get(name, 0.0)) for name, share in sides[1].items()]
    return sorted(rises, key=lambda item: (-item[1], item[0]))


def _spread(before: ColumnSketch, after: ColumnSketch) -> str:
    a, b = before.numbers, after.numbers
    if pair := _moved(before.missing, before.rows, after.missing, after.rows):
        same = mismatch(a, b) <= tolerance(a, b)
        if same or not (a.count and b.count):
            return f"missing values {pair}"
    ends = [s.quantiles(np.array([0.05, 0.95])) if s.count else np.zeros(2) for s in (a, b)]
    ranges = [f"{shown(float(low))}..{shown(float(high))}" for low, high in ends]
    return f"other values: {medians(a, b)}, 5 % to 95 % {ranges[0]} -> {ranges[1]}"


def _type_changed(before: ColumnSketch, after: ColumnSketch) -> str:
    words = f"type changed: {before.type} -> {after.type}"
    for column, other in ((before, after), (after, before)):
        if family(column) == "number" and family(other) == "text":
            for name, (numbers, *_) in _covering(other.text).items():
                limit = tolerance(column.numbers, numbers)
                if name.startswith("number") and mismatch(column.numbers, numbers) <= limit:
                    mark = ", decimal mark ," if name.endswith("comma") else ""
                    return f"{words} (the same numbers as text{mark})"
    return words


def _covering(text: TextSketch) -> Readings:
    """Readings that nearly all values follow."""
    enough = COVERED * text.lengths.count
    return {name: r for name, r in text.readings.items() if r and r[0].count >= enough}


def _dates(before: TextSketch, after: TextSketch, _: str) -> str:
    names = []
    for text in (before, after):
        if sum(text.dates.values()) < COVERED * text.lengths.count:
            return ""
        # "03/04/2024" is both month first and day first; the other rows of the column decide.
        clear = {name: n for name, n in text.dates.items() if name != "DD/MM or MM/DD"}
        counts = clear or text.dates
        names.append(max(sorted(counts), key=lambda name: counts[name]))
    if names[0] == names[1]:
        return ""
    return f"date format changed: {names[0]} -> {names[1]} ({_common(before)} -> {_common(after)})"


def _common(text: TextSketch) -> str:
    values = text.values.common(1)
    return f'"{values[0][0]}"' if values else "nothing"


def _numbers_in_text(before: TextSketch, after: TextSketch, column: str) -> str:
    """Numbers in strings: decimal mark, separator, order of the components, units."""
    pairs = [
        (a, b, one, other)
        for a, one in _covering(before).items()
        for b, other in _covering(after).items()
        if len(one) == len(other)
    ]
    for find in (_mark_changed, _separator_changed, _swapped, _components_changed):
        for a, b, one, other in pairs:
            if words := find(a, b, one, other, (before, after), column):
                return words
    return ""


Components = tuple[NumberSketch, ...]
Sides = tuple[TextSketch, TextSketch]


def _same(one: Components, other: Components) -> bool:
    return all(mismatch(x, y) <= tolerance(x, y) for x, y in zip(one, other, strict=True))


def _mark_changed(a: str, b: str, one: Components, other: Components, sides: Sides, _: str) -> str:
    marks = ["," if "comma" in name else "." for name in (a, b)]
    if marks[0] == marks[1] or not _same(one, other):
        return ""
    return f"decimal mark changed: {marks[0]} -> {marks[1]} {_forms(sides)}"


def _forms(sides: Sides) -> str:
    return f"({_common(sides[0])} -> {_common(sides[1])})"


def _separator_changed(
    a: str, b: str, one: Components, other: Components, sides: Sides, _: str
) -> str:
    if a != b or not a.startswith("tuple") or not _same(one, other):
        return ""
    forms = [_form(text.shapes, "comma" in a) for text in sides]
    if forms[0] == forms[1]:
        return ""
    separators = [_separator(form) for form in forms]
    if separators[0] == separators[1]:
        return f"brackets changed: {forms[0]} -> {forms[1]}"
    return f'separator changed: "{separators[0]}" -> "{separators[1]}" {_forms(sides)}'


def _form(shapes: Shares, comma: bool) -> str:
    """The commonest shape with x for a number."""
    number = r"[-+]?9,9" if comma else r"[-+]?9(\.9)?(a[-+]?9)?"
    counts: dict[str, int] = {}
    for shape, count in shapes.top.items():
        form = re.sub(number, "x", shape)
        counts[form] = counts.get(form, 0) + count
    return max(sorted(counts), key=lambda form: counts[form])


def _separator(form: str) -> str:
    inside = re.search(r"x([^x]+)x", form)
    return inside[1] if inside else form


def _swapped(a: str, b: str, one: Components, other: Components, _: Sides, column: str) -> str:
    if a != b or len(one) != 2 or not _same(one, other[::-1]):
        return ""
    names = "lat,lon -> lon,lat" if _geographic(one, column) else "first,second -> second,first"
    return f"components swapped: {names} ({_medians(one, other)})"


def _geographic(one: Components, column: str) -> bool:
    """Whether a pair may be latitude, longitude in degrees."""
    if not re.search(r"pos|loc|coord|lat|geo|point|gps|place", column.lower()):
        return False
    return max(abs(one[0].low), abs(one[0].high)) <= 90 and abs(one[1].high) <= 180


def _medians(one: Components, other: Components) -> str:
    sides = [",".join(shown(c.median) for c in side) for side in (one, other)]
    return f"median {sides[0]} -> {sides[1]}"


def _components_changed(
    a: str, b: str, one: Components, other: Components, sides: Sides, column: str
) -> str:
    words = []
    for i, (x, y) in enumerate(zip(one, other, strict=True)):
        if mismatch(x, y) > tolerance(x, y):
            change = explain_numbers(x, y, column) or f"other values ({medians(x, y)})"
            words.append(f"component {i + 1}: {change}" if len(one) > 1 else change)
    return "; ".join(words)


def _shapes(before: TextSketch, after: TextSketch, _: str) -> str:
    """Another commonest shape of the strings."""
    tops = [text.shapes.common(1) for text in (before, after)]
    if not all(tops):
        return ""
    totals = [max(1, sum(text.shapes.buckets)) for text in (before, after)]
    first, then = tops[0][0], tops[1][0]
    if first[0] == then[0]:
        return ""
    return (
        f'shape of the text changed: "{first[0]}" {first[1] / totals[0]:.0%} -> "{then[0]}" '
        f"{then[1] / totals[1]:.0%} ({_common(before)} -> {_common(after)})"
    )
