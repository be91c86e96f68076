"""The columns of a table as examples: numbers, texts that are categories, what is missing.

N rows, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data.messages import counted, did_you_mean, listed
from data.order import Ids
from data.sources.table_files import table_parts
from orchestrator.stages.features.section import FeaturesConfig

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table

Numbers = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]
MOST_CATEGORIES = 100  # of a column of texts; one with more is no category
LEFT_OPEN = ("", "NA", "N/A", "NaN", "nan", "null", "None")  # texts that say that there is none


@dataclass(frozen=True)
class Examples:
    """Rows of numbers, each with what is to be told."""

    source: str
    """Where they come from, as the user typed it."""
    path: Path | None
    """Of the table. None: they come with a library."""
    names: tuple[str, ...]
    """Of the features (F)."""
    features: Numbers
    """(N, F), finite; NaN where one is missing that the training split is to fill in."""
    targets: Labels | Numbers
    """int64 (N,) of classes, from 0; float (N, 1) of a regression."""
    classes: tuple[str, ...] | None
    """Their names. None: numbers are told."""
    split: tuple[Ids, Ids] | None = None
    """Rows of the training and of the validation split. None: a hash of each row decides."""
    left_out: int = 0
    """Rows that lacked something, and were dropped."""
    shape: tuple[int, int] | None = None
    """Of pictures: rows and columns of pixels."""
    plane: tuple[float, float] | None = None
    """From where to where x and y reach, if the features are made of these coordinates."""


def read_table(path: Path, stage: FeaturesConfig, label: str | None, *, classes: bool) -> Examples:
    """The examples in a table.

    Args:
        path: of the table.
        stage: says which columns, and what becomes of rows that lack something.
        label: column with what is to be told.
        classes: whether that is a class, rather than a number.

    Raises:
        ValueError: names the column or setting that does not fit, and what would.
    """
    import pyarrow as pa

    where = f"stage.data={stage.data}"
    parts = list(table_parts(path))
    if not any(part.num_rows for part in parts):
        raise ValueError(f"{where} has no rows; give a table with examples")
    table = pa.Table.from_batches(parts)
    columns = table.column_names
    if label is None:
        raise ValueError(
            f"{where} needs the column of its labels; add stage.label=COLUMN, one of "
            f"{', '.join(columns)}"
        )
    names = [name for name in columns if name != label]
    if stage.features is not None:
        names = list(stage.features)
    _check_columns(where, columns, {"label": [label], "features": names})
    if label in names:
        raise ValueError(
            f"stage.features has {label}, which is the label: the model would see what it "
            "has to tell; leave it out"
        )
    found: dict[str, NDArray[np.float64]] = {}
    for name in names:
        found |= _feature(where, table, name, stage.missing)
    features = np.stack(list(found.values()), 1)
    read = _classes if classes else _target
    targets, told = read(where, table[label], label)
    kept = np.arange(len(features))
    if stage.missing == "drop":
        kept = np.flatnonzero(~np.isnan(features).any(1))
        if not len(kept):
            raise ValueError(
                f"{where}: stage.missing=drop leaves no row: each of {len(features):,} lacks a "
                "feature; try stage.missing=mean, or list fuller columns: stage.features=[A,B]"
            )
    return Examples(
        where,
        path,
        tuple(found),
        features[kept],
        targets[kept],
        told,
        left_out=len(features) - len(kept),
    )


def _check_columns(where: str, columns: Sequence[str], asked: dict[str, list[str]]) -> None:
    for setting, names in asked.items():
        for name in names:
            if name not in columns:
                raise ValueError(
                    f"stage.{setting}: {where} has no column {name}"
                    f"{did_you_mean(name, columns)}; it has {', '.join(columns)}"
                )
            if columns.count(name) > 1:
                raise ValueError(
                    f"{where} has {columns.count(name)} columns {name}; rename all but one"
                )
    if not asked["features"]:
        raise ValueError(f"{where} has no column but the label; add columns with features")


def _feature(where: str, table: "Table", name: str, missing: str) -> dict[str, NDArray[np.float64]]:
    """A column as one feature (N,), or as one for each of its categories; by name."""
    column = table[name]
    if _is_text(column):
        found = _categories(where, column, name)
    else:
        found = {name: _numbers(where, column, name, "a feature")}
    lacking = np.isnan(next(iter(found.values())))
    if lacking.any() and missing == "refuse":
        raise ValueError(
            f"{where}: column {name}: a feature is missing in {counted(int(lacking.sum()), 'row')},"
            f" first in row {np.flatnonzero(lacking)[0] + 1}; leave the rows out with "
            "stage.missing=drop, or fill in the mean with stage.missing=mean"
        )
    if lacking.any() and missing == "mean":
        found[f"{name} is missing"] = lacking.astype(np.float64)
    return found


def _categories(where: str, column: "ChunkedArray", name: str) -> dict[str, NDArray[np.float64]]:
    """A column of texts: a feature (N,) for each, 1 where the text is that; NaN where it is none.

    Of two categories the second says all.
    """
    texts, lacking = _texts(column)
    known = sorted(set(texts[~lacking].tolist()))
    if len(known) > min(MOST_CATEGORIES, max(2, len(texts) // 2)):
        raise ValueError(
            f"{where}: column {name} has {len(known):,} different texts in {len(texts):,} rows, "
            f"which are no categories ({listed(known[:3])} ...); list the columns to learn from: "
            "stage.features=[A,B]"
        )
    shown = known[1:] if len(known) == 2 else known
    return {
        f"{name}={text}": np.where(lacking, np.nan, (texts == text).astype(np.float64))
        for text in shown
    }


def _classes(where: str, column: "ChunkedArray", name: str) -> tuple[Labels, tuple[str, ...]]:
    """The column of labels, int64 (N,), and the names of the classes."""
    import pyarrow as pa

    if _is_text(column):
        texts, lacking = _texts(column)
        if lacking.any():
            raise _missing_label(where, name, lacking)
        known, labels = np.unique(texts, return_inverse=True)
        if len(known) > MOST_CATEGORIES:
            raise ValueError(
                f"{where}: column {name} has {len(known):,} different texts, which are no classes "
                f"({listed(known[:3])} ...); give another column: stage.label=COLUMN"
            )
        return labels.astype(np.int64), tuple(known.tolist())
    whole = f"{where}: column {name} must hold a text or a whole number from 0, one for each class"
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ValueError(f"{whole}, not values of type {column.type}; number the classes")
    values = _label(where, column, name)
    for wrong in (values != np.floor(values), values < 0):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"{whole}; row {row + 1} has {values[row]:g}")
    return values.astype(np.int64), tuple(map(str, range(int(values.max(initial=0)) + 1)))


def _target(where: str, column: "ChunkedArray", name: str) -> tuple[Numbers, None]:
    """The column of numbers to tell, float64 (N, 1)."""
    if _is_text(column):
        raise ValueError(
            f"{where}: column {name} holds texts, and a regression tells numbers; give another "
            "column, or tell classes with stage=classify"
        )
    return _label(where, column, name)[:, None], None


def _label(where: str, column: "ChunkedArray", name: str) -> NDArray[np.float64]:
    values = _numbers(where, column, name, "a label")
    lacking = np.isnan(values)
    if lacking.any():
        raise _missing_label(where, name, lacking)
    return values


def _missing_label(where: str, name: str, lacking: NDArray[np.bool_]) -> ValueError:
    return ValueError(
        f"{where}: column {name}: a label is missing in {counted(int(lacking.sum()), 'row')}, "
        f"first in row {np.flatnonzero(lacking)[0] + 1}; leave these rows out of the file"
    )


def _is_text(column: "ChunkedArray") -> bool:
    import pyarrow as pa

    kind = column.type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _texts(column: "ChunkedArray") -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Texts (N,), and where there is none."""
    texts = np.array([text or "" for text in column.to_pylist()], dtype=str)
    return texts, np.isin(texts, LEFT_OPEN)


def _numbers(where: str, column: "ChunkedArray", name: str, what: str) -> NDArray[np.float64]:
    """Values (N,), NaN where there is none."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise ValueError(
            f"{where}: column {name} is of type {kind}, and {what} must be a number or a text; "
            "make it one, or list the columns to learn from: stage.features=[A,B]"
        )
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    infinite = np.flatnonzero(np.isinf(values))
    if len(infinite):
        raise ValueError(
            f"{where}: column {name}: {what} is not finite in {counted(len(infinite), 'row')}, "
            f"first in row {infinite[0] + 1}; replace it"
        )
    return values
