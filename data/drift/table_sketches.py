"""Sketches of tables: of each column its counts, its range and a random sample of its values.

Rows are taken as independent. A sketch is made where the rows are read; `merged` puts those of the
parts of a table together.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError

VERSION = 2
SAMPLE = 1024  # values of a column that are kept
LISTED = 32  # a column of text with at most so many different values has categories
CHARACTERS = 100  # of a text that are kept


@dataclass(frozen=True)
class ColumnSketch:
    """One column."""

    name: str
    kind: str
    """number, text (booleans too), time (seconds since 1970, or of the day) or other."""
    type: str
    """Of Arrow; joined by " or " where parts differ."""
    rows: int
    missing: int
    """Nulls, and numbers that are not finite."""
    sample: list[Any]
    """Values in random order: numbers, or texts cut to CHARACTERS."""
    low: float | None = None
    high: float | None = None
    """Range of numbers. None: there are none."""
    rising: bool = False
    """Whether each is a whole number above the one before, as those of a counter are."""
    categories: dict[str, int] | None = None
    """Text -> count, of all values. None: there are too many different ones."""


@dataclass(frozen=True)
class TableSketch:
    """The columns of a table, or of a part of it."""

    rows: int
    columns: Mapping[str, ColumnSketch]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        columns = [asdict(column) for column in self.columns.values()]
        return {"version": VERSION, "rows": self.rows, "columns": columns}

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "TableSketch":
        """Inverse of `to_dict`.

        Raises:
            DataError: written by another version.
        """
        if content.get("version") != VERSION:
            raise DataError(
                f"a table was sketched by version {content.get('version')}, not {VERSION}, so "
                "drift can't be told; prepare that data again"
            )
        columns = [ColumnSketch(**column) for column in content["columns"]]
        return TableSketch(content["rows"], {column.name: column for column in columns})


def merged(parts: Sequence[TableSketch]) -> TableSketch:
    """The sketch of a table from those of its parts; a part without a column lacks its values."""
    names = dict.fromkeys(name for part in parts for name in part.columns)
    rows = sum(part.rows for part in parts)
    columns = {
        name: _merged([part.columns[name] for part in parts if name in part.columns], rows)
        for name in names
    }
    return TableSketch(rows, columns)


def _merged(parts: Sequence[ColumnSketch], rows: int) -> ColumnSketch:
    filled = [part for part in parts if part.missing < part.rows] or parts[:1]
    kind = filled[0].kind if len({part.kind for part in filled}) == 1 else "other"
    values = [part.rows - part.missing for part in filled]
    # A sample stands in random order, so its beginning is a smaller random sample.
    share = min(1.0, SAMPLE / max(1, sum(values)))
    sample = [
        value
        for part, count in zip(filled, values, strict=True)
        for value in part.sample[: round(share * count)]
    ]
    order = np.random.default_rng(len(sample)).permutation(len(sample))[:SAMPLE]
    return ColumnSketch(
        filled[0].name,
        kind,
        " or ".join(sorted({part.type for part in filled})),
        rows,
        rows - sum(values),
        [sample[i] for i in order] if kind != "other" else [],
        min((part.low for part in filled if part.low is not None), default=None),
        max((part.high for part in filled if part.high is not None), default=None),
        all(part.rising for part in filled),
        _merged_categories([part.categories for part in filled]) if kind == "text" else None,
    )


def _merged_categories(parts: Sequence[dict[str, int] | None]) -> dict[str, int] | None:
    counts: Counter[str] = Counter()
    for part in parts:
        if part is None:
            return None
        counts.update(part)
    return dict(sorted(counts.items())) if len(counts) <= LISTED else None


def sketch_table(table: Any) -> TableSketch:
    """Sketch a pyarrow Table or RecordBatch.

    Raises:
        DataError: two columns of one name.
    """
    names = table.schema.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"the table has two columns named {twice[0]!r}; rename one")
    columns = {name: _sketch_column(name, table.column(name)) for name in names}
    return TableSketch(table.num_rows, columns)


def _sketch_column(name: str, column: Any) -> ColumnSketch:
    """Sketch one Arrow array."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, type_, rows = _kind(column.type), str(column.type), len(column)
    values = column.drop_null()
    if kind == "other":
        return ColumnSketch(name, kind, type_, rows, column.null_count, [])
    if kind == "text":
        texts = values.cast(pa.large_string())
        sample = texts.take(pa.array(_chosen(len(texts)))).to_pylist()
        return ColumnSketch(
            name,
            kind,
            type_,
            rows,
            column.null_count,
            [text[:CHARACTERS] for text in sample],
            categories=_categories(texts),
        )
    numbers = _seconds(values) if kind == "time" else values.cast(pa.float64(), safe=False)
    array = np.array(numbers)
    array = array[np.isfinite(array)]
    return ColumnSketch(
        name,
        kind,
        type_,
        rows,
        rows - len(array),
        array[_chosen(len(array))].tolist(),
        float(array.min()) if len(array) else None,
        float(array.max()) if len(array) else None,
        len(array) > 1 and bool((np.diff(array) > 0).all() and (array % 1 == 0).all()),
    )


def _chosen(values: int) -> NDArray[np.int64]:
    """Places of at most SAMPLE of so many values, in random order; the same every time."""
    return np.random.default_rng(values).permutation(values)[:SAMPLE]


def _categories(texts: Any) -> dict[str, int] | None:
    import pyarrow.compute as pc

    counts = pc.value_counts(texts)
    if len(counts) > LISTED:
        return None
    pairs = zip(counts.field("values").to_pylist(), counts.field("counts").to_pylist(), strict=True)
    return {text[:CHARACTERS]: count for text, count in sorted(pairs)}


def _kind(type_: Any) -> str:
    """Of an Arrow type."""
    from pyarrow import types

    if types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_):
        return "number"
    texts = (types.is_string, types.is_large_string, types.is_string_view, types.is_boolean)
    if any(is_text(type_) for is_text in texts):
        return "text"
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
