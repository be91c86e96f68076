"""Sketches of tables: about a KB per column of numbers and a few per column of text.

Rows are taken as independent, so a column's histograms say all about their own noise. Merging adds
counts; it is exact, associative and commutative (but see `Shares.top`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data.drift.distinct import Counts, Distinct
from data.drift.numbers import NumberSketch
from data.drift.text_columns import SAMPLE, TextSketch
from data.files import DataError

VERSION = 1
CODES = (-9999.0, -999.0, -99.0, -1.0, 0.0, 99.0, 999.0, 9999.0)
"""Numbers that often stand for a missing value."""


@dataclass(frozen=True)
class ColumnSketch:
    """One column."""

    name: str
    kind: str
    """number, text, boolean, time (seconds since 1970, or of the day) or other."""
    type: str
    """Of Arrow; joined by " or " where shards differ."""
    rows: int
    missing: int
    """Nulls, and numbers that are not finite."""
    numbers: NumberSketch = field(default_factory=NumberSketch)
    codes: Mapping[float, int] = field(default_factory=dict)
    """CODES -> count."""
    distinct: Distinct = field(default_factory=Distinct)
    """Of numbers; texts have their own."""
    text: TextSketch = field(default_factory=TextSketch)
    """Booleans are the texts true and false."""

    def merge(self, other: "ColumnSketch") -> "ColumnSketch":
        """Of both shards."""
        kinds = sorted({self.kind, other.kind})
        types = sorted({*self.type.split(" or "), *other.type.split(" or ")})
        codes = sorted(self.codes.keys() | other.codes.keys())
        return ColumnSketch(
            self.name,
            kinds[0] if len(kinds) == 1 else "other",
            " or ".join(types),
            self.rows + other.rows,
            self.missing + other.missing,
            self.numbers.merge(other.numbers),
            {code: self.codes.get(code, 0) + other.codes.get(code, 0) for code in codes},
            self.distinct.merge(other.distinct, SAMPLE),
            self.text.merge(other.text),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        content: dict[str, Any] = {
            "name": self.name,
            "kind": self.kind,
            "type": self.type,
            "rows": self.rows,
            "missing": self.missing,
        }
        if self.numbers.count:
            content |= {
                "numbers": self.numbers.to_list(),
                "codes": [[code, count] for code, count in self.codes.items()],
                "distinct": self.distinct.to_list(),
            }
        return content | ({"text": self.text.to_dict()} if self.text.lengths.count else {})

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "ColumnSketch":
        """Inverse of `to_dict`."""
        given = dict(content)
        if "numbers" in given:
            given["numbers"] = NumberSketch.from_list(given["numbers"])
            given["codes"] = {float(code): count for code, count in given["codes"]}
            given["distinct"] = Distinct.from_list(given["distinct"])
        if "text" in given:
            given["text"] = TextSketch.from_dict(given["text"])
        return ColumnSketch(**given)


@dataclass(frozen=True)
class TableSketch:
    """The columns of a table, or of one shard of it."""

    rows: int
    columns: Mapping[str, ColumnSketch]

    def merge(self, other: "TableSketch") -> "TableSketch":
        """Of both; where a shard lacks a column, its rows count as missing."""
        columns = {}
        for name in dict.fromkeys((*self.columns, *other.columns)):
            pair = [side.columns.get(name) or _absent(name, side.rows) for side in (self, other)]
            known = [column for column in pair if column.type]
            merged = pair[0].merge(pair[1])
            if len(known) == 1:
                merged = replace(merged, kind=known[0].kind, type=known[0].type)
            columns[name] = merged
        return TableSketch(self.rows + other.rows, columns)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        columns = [column.to_dict() for column in self.columns.values()]
        return {"version": VERSION, "rows": self.rows, "columns": columns}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "TableSketch":
        """Inverse of `to_dict`.

        Raises:
            DataError: written by another version.
        """
        if content.get("version") != VERSION:
            raise DataError(
                f"a table sketch of version {content.get('version')} is read, but {VERSION} is "
                "known here; sketch that table again"
            )
        columns = [ColumnSketch.from_dict(column) for column in content["columns"]]
        return TableSketch(content["rows"], {column.name: column for column in columns})

    def to_json(self) -> str:
        """Inverse of `from_json`."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> "TableSketch":
        """Inverse of `to_json`."""
        return TableSketch.from_dict(json.loads(text))


def _absent(name: str, rows: int) -> ColumnSketch:
    return ColumnSketch(name, "other", "", rows, rows)


def sketch_table(table: Any) -> TableSketch:
    """Sketch a pyarrow Table, RecordBatch, or an iterable of them (parts of one table).

    Raises:
        DataError: an iterable without parts, or two columns of one name.
    """
    import pyarrow as pa

    if isinstance(table, pa.RecordBatch):
        table = pa.table(table)
    if not isinstance(table, pa.Table):
        return _merged(sketch_table(part) for part in table)
    if twice := sorted({n for n in table.column_names if table.column_names.count(n) > 1}):
        raise DataError(f"the table has two columns named {twice[0]!r}; rename one")
    columns = [_sketch_column(name, table.column(name)) for name in table.column_names]
    return TableSketch(table.num_rows, {column.name: column for column in columns})


def _merged(parts: Iterable[TableSketch]) -> TableSketch:
    total: TableSketch | None = None
    for part in parts:
        total = part if total is None else total.merge(part)
    if total is None:
        raise DataError("there is no record batch to sketch; give at least one, empty or not")
    return total


def _sketch_column(name: str, column: Any) -> ColumnSketch:
    """Sketch one Arrow chunked array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    type_ = column.type
    kind = _kind(type_)
    rows, nulls = len(column), column.null_count
    if kind == "other":
        return ColumnSketch(name, kind, str(type_), rows, nulls)
    encoded = pc.value_counts(column.drop_null())
    values, counts = encoded.field("values"), encoded.field("counts").to_numpy()
    counts = counts.astype(np.int64)
    if kind in ("text", "boolean"):
        text = TextSketch.of(values.cast(pa.string()), counts)
        return ColumnSketch(name, kind, str(type_), rows, nulls, text=text)
    numbers = _seconds(values) if kind == "time" else values.cast(pa.float64(), safe=False)
    array = numbers.to_numpy(zero_copy_only=False)
    finite = np.isfinite(array)
    missing = nulls + int(counts[~finite].sum())
    array, counts = array[finite], counts[finite]
    return ColumnSketch(
        name,
        kind,
        str(type_),
        rows,
        missing,
        NumberSketch.of(array, counts),
        {code: int(counts[array == code].sum()) for code in CODES if (array == code).any()},
        _distinct(array, counts),
    )


def _kind(type_: Any) -> str:
    """Of an Arrow type."""
    from pyarrow import types

    if types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_):
        return "number"
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return "text"
    if types.is_boolean(type_):
        return "boolean"
    return "time" if types.is_temporal(type_) and not types.is_interval(type_) else "other"


def _seconds(values: Any) -> Any:
    """Dates, times, durations as float64 seconds."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_date(values.type):
        values = values.cast(pa.timestamp("s"))
    wide = pa.int32() if values.type.bit_width == 32 else pa.int64()
    per_second = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}[values.type.unit]
    return pc.divide(values.cast(wide).cast(pa.float64(), safe=False), per_second)


def _distinct(values: Any, counts: Counts) -> Distinct:
    """Hashes of float64: the multiply-xorshift finish of splitmix64 over their bits."""
    bits = (values + 0.0).view(np.uint64)  # -0.0 is 0.0
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    hashes, inverse = np.unique(bits ^ (bits >> np.uint64(31)), return_inverse=True)
    sums = np.zeros(len(hashes), dtype=np.int64)
    np.add.at(sums, inverse.reshape(-1), counts)
    return Distinct.of(hashes, sums, SAMPLE)
