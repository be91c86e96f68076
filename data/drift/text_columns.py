"""Sketches of text columns: shares of values and of their shapes, and the numbers inside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.drift.distinct import Counts, Distinct
from data.drift.numbers import NumberSketch

BUCKETS = 32
LISTED = 32  # a column with at most so many values lists all of them
FREQUENT = 8  # of more values or shapes, the most frequent
SAMPLE = 24
SHOWN_CHARACTERS = 32
CODES = ("", "NA", "N/A", "na", "nan", "NaN", "null", "NULL", "None", "none", "-", "?", "missing")
_DOT = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_COMMA = r"[-+]?\d+,\d+"
_MORE = "(?:{gap}(?P<c>{number}))?"
_TUPLE = r"^\s*[\[(]?\s*(?P<a>{number}){gap}(?P<b>{number})" + _MORE + r"\s*[\])]?\s*$"
# How a text can be read as numbers. "48,1" has two readings; the gate knows which one fits.
READINGS = {
    "number": rf"^\s*(?P<a>{_DOT})\s*$",
    "number with decimal comma": rf"^\s*(?P<a>{_COMMA})\s*$",
    "tuple": _TUPLE.format(number=_DOT, gap=r"(?:\s*[,;|]\s*|\s+)"),
    "tuple with decimal comma": _TUPLE.format(number=_COMMA, gap=r"(?:\s*[;|]\s*|,\s+|\s+)"),
}
DATES = {
    "YYYY-MM-DD": r"^\d{4}-\d{2}-\d{2}$",
    "YYYY-MM-DD hh:mm": r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}\S*$",
    "YYYY/MM/DD": r"^\d{4}/\d{2}/\d{2}$",
    "YYYYMMDD": r"^(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])$",
    "DD.MM.YYYY": r"^\d{1,2}\.\d{1,2}\.\d{4}$",
    "DD/MM/YYYY": r"^(?:1[3-9]|2\d|3[01])[/-]\d{1,2}[/-]\d{4}$",
    "MM/DD/YYYY": r"^\d{1,2}[/-](?:1[3-9]|2\d|3[01])[/-]\d{4}$",
    "DD/MM or MM/DD": r"^(?:0?[1-9]|1[0-2])[/-](?:0?[1-9]|1[0-2])[/-]\d{4}$",
    "DD Mon YYYY": r"^\d{1,2} [A-Za-z]{3,9} \d{4}$",
    "Mon DD, YYYY": r"^[A-Za-z]{3,9} \d{1,2}, \d{4}$",
    "hh:mm": r"^\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?$",
}


@dataclass(frozen=True)
class Shares:
    """How often values stand in a column: hashed, and by name as far as they are few."""

    buckets: tuple[int, ...] = (0,) * BUCKETS
    top: Mapping[str, int] = field(default_factory=dict)
    """Value -> count; of a merged sketch with complete=False a lower bound."""
    complete: bool = True
    """Whether `top` names every value."""
    distinct: Distinct = field(default_factory=Distinct)

    @staticmethod
    def of(values: list[str], counts: Counts) -> "Shares":
        """From distinct values (N,) and how often each stands there (N,)."""
        import xxhash

        hashes = np.array([xxhash.xxh3_64_intdigest(v.encode()) for v in values], dtype=np.uint64)
        buckets = np.zeros(BUCKETS, dtype=np.int64)
        np.add.at(buckets, (hashes >> np.uint64(59)).astype(np.int64), counts)
        complete = len(values) <= LISTED
        if complete:
            order = list(range(len(values)))
        else:
            near = np.argsort(-counts, kind="stable")
            tied = near[counts[near] >= counts[near[FREQUENT - 1]]].tolist()
            order = sorted(tied, key=lambda i: (-counts[i], values[i]))[:FREQUENT]
        top = {values[i]: int(counts[i]) for i in sorted(order, key=lambda i: values[i])}
        return Shares(
            tuple(buckets.tolist()), _shortened(top), complete, Distinct.of(hashes, counts, SAMPLE)
        )

    def merge(self, other: "Shares") -> "Shares":
        """Of both columns."""
        names = sorted(self.top.keys() | other.top.keys())
        return Shares(
            tuple(a + b for a, b in zip(self.buckets, other.buckets, strict=True)),
            {name: self.top.get(name, 0) + other.top.get(name, 0) for name in names},
            self.complete and other.complete,
            self.distinct.merge(other.distinct, SAMPLE),
        )

    def common(self, number: int) -> list[tuple[str, int]]:
        """The most frequent values."""
        return sorted(self.top.items(), key=lambda item: (-item[1], item[0]))[:number]

    def to_list(self) -> list[Any]:
        """JSON-able."""
        return [list(self.buckets), dict(self.top), self.complete, self.distinct.to_list()]

    @staticmethod
    def from_list(content: list[Any]) -> "Shares":
        """Inverse of `to_list`."""
        buckets, top, complete, distinct = content
        return Shares(tuple(buckets), top, complete, Distinct.from_list(distinct))


def _shortened(top: dict[str, int]) -> dict[str, int]:
    short: dict[str, int] = {}
    for value, count in top.items():
        value = value[:SHOWN_CHARACTERS]
        short[value] = short.get(value, 0) + count
    return short


@dataclass(frozen=True)
class TextSketch:
    """A column of strings."""

    values: Shares = field(default_factory=Shares)
    shapes: Shares = field(default_factory=Shares)
    """Runs of digits as 9, of letters as a."""
    lengths: NumberSketch = field(default_factory=NumberSketch)
    """In characters."""
    readings: Mapping[str, tuple[NumberSketch, ...]] = field(default_factory=dict)
    """READINGS, "of N" behind a tuple -> a sketch per component."""
    dates: Mapping[str, int] = field(default_factory=dict)
    """DATES -> values in this format."""
    codes: Mapping[str, int] = field(default_factory=dict)
    """Values that often stand for a missing one -> count."""

    @staticmethod
    def of(values: Any, counts: Counts) -> "TextSketch":
        """From an Arrow array of distinct strings and how often each stands there (N,)."""
        import pyarrow.compute as pc

        if not len(values):
            return TextSketch()
        shape = pc.replace_substring_regex(values, r"\p{Nd}+", "9")
        shape = pc.replace_substring_regex(shape, r"\p{L}+", "a")
        shape = pc.dictionary_encode(shape)
        names = shape.dictionary.to_pylist()
        sums = np.zeros(len(names), dtype=np.int64)
        np.add.at(sums, shape.indices.to_numpy(zero_copy_only=False), counts)
        texts = values.to_pylist()
        dates = {}
        for name, pattern in DATES.items():
            hits = pc.match_substring_regex(values, pattern).to_numpy(zero_copy_only=False)
            if hits.any():
                dates[name] = int(counts[hits].sum())
        codes = {text: int(n) for text, n in zip(texts, counts, strict=True) if text in CODES}
        return TextSketch(
            Shares.of(texts, counts),
            Shares.of(names, sums),
            NumberSketch.of(pc.utf8_length(values).to_numpy(zero_copy_only=False), counts),
            _readings(values, counts),
            dates,
            {code: codes[code] for code in sorted(codes)},
        )

    def merge(self, other: "TextSketch") -> "TextSketch":
        """Of both columns."""
        readings = {}
        for name in sorted(self.readings.keys() | other.readings.keys()):
            mine, its = self.readings.get(name), other.readings.get(name)
            if mine and its:
                readings[name] = tuple(a.merge(b) for a, b in zip(mine, its, strict=True))
            else:
                readings[name] = mine or its or ()
        return TextSketch(
            self.values.merge(other.values),
            self.shapes.merge(other.shapes),
            self.lengths.merge(other.lengths),
            readings,
            _added(self.dates, other.dates),
            _added(self.codes, other.codes),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "values": self.values.to_list(),
            "shapes": self.shapes.to_list(),
            "lengths": self.lengths.to_list(),
            "readings": {n: [c.to_list() for c in r] for n, r in self.readings.items()},
            "dates": dict(self.dates),
            "codes": dict(self.codes),
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "TextSketch":
        """Inverse of `to_dict`."""
        return TextSketch(
            Shares.from_list(content["values"]),
            Shares.from_list(content["shapes"]),
            NumberSketch.from_list(content["lengths"]),
            {n: tuple(map(NumberSketch.from_list, r)) for n, r in content["readings"].items()},
            content["dates"],
            content["codes"],
        )


def _added(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    return {name: a.get(name, 0) + b.get(name, 0) for name in sorted(a.keys() | b.keys())}


def _readings(values: Any, counts: Counts) -> dict[str, tuple[NumberSketch, ...]]:
    """Sketches of the numbers in strings, per reading and number of components."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, tuple[NumberSketch, ...]] = {}
    for name, pattern in READINGS.items():
        fields = pc.extract_regex(values, pattern)
        hit = np.flatnonzero(pc.is_valid(fields).to_numpy(zero_copy_only=False))
        if not len(hit):
            continue
        columns = []
        for part in "abc" if name.startswith("tuple") else "a":
            text = pc.replace_substring(pc.struct_field(fields.take(pa.array(hit)), part), ",", ".")
            text = pc.if_else(pc.equal(text, ""), "nan", text)  # no third component
            columns.append(pc.cast(text, pa.float64()).to_numpy(zero_copy_only=False))
        if len(columns) == 1:
            groups = {name: np.isfinite(columns[0])}
        else:
            three = np.isfinite(columns[2])
            groups = {f"{name} of 2": ~three, f"{name} of 3": three}
        for label, rows in groups.items():
            if rows.any():
                width = int(label[-1]) if label[-1].isdigit() else 1
                parts = [column[rows] for column in columns[:width]]
                kept = np.isfinite(parts).all(0)
                n = counts[hit][rows][kept]
                found[label] = tuple(NumberSketch.of(p[kept], n) for p in parts)
    return found
