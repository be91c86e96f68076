"""Numbers and labels of examples: scikit-learn's digits, or the columns of a table, checked.

N examples, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.messages import counted, did_you_mean
from data.sources.table_files import table_parts
from models.configs import ClassifierConfig
from orchestrator.stages.classify.stage import ClassifyConfig

if TYPE_CHECKING:
    from pyarrow import ChunkedArray, Table

Numbers = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Rows of numbers, each with a label."""

    source: str
    """Where they come from, as the user typed it."""
    path: Path | None
    """Of the table. None: they come with a library."""
    names: tuple[str, ...]
    """Of the features (F)."""
    features: Numbers
    """float64 (N, F), all finite."""
    labels: Labels
    """int64 (N,), from 0."""


def read_examples(stage: ClassifyConfig, model: ClassifierConfig) -> Examples:
    """All examples of the job, of which the model can learn.

    Raises:
        ValueError: names the column or setting that does not fit, and what would.
    """
    examples = _digits() if stage.data is None else _table(Path(stage.data), stage)
    found, most = examples.features.shape[1], int(examples.labels.max(initial=0))
    if model.inputs != found:
        raise ValueError(
            f"model.inputs={model.inputs}, but {examples.source} has {counted(found, 'feature')}; "
            f"try model.inputs={found}"
        )
    if most >= model.classes:
        raise ValueError(
            f"{examples.source} has labels up to {most}, but model.classes={model.classes} allows "
            f"0 to {model.classes - 1}; try model.classes={most + 1}"
        )
    if len(np.unique(examples.labels)) < 2:
        raise ValueError(
            f"{examples.source}: all {counted(len(examples.labels), 'example')} have the label "
            f"{most}; a classifier needs at least two labels to tell apart"
        )
    return examples


def _digits() -> Examples:
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin and Kaynak 1998), in scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Examples(
        "scikit-learn's digits",
        None,
        tuple(digits.feature_names),
        digits.data.astype(np.float64),
        digits.target.astype(np.int64),
    )


def _table(path: Path, stage: ClassifyConfig) -> Examples:
    import pyarrow as pa

    where = f"stage.data={path}"
    if not path.is_file():
        raise ValueError(f"{where} is no file; give a table such as FILE.csv or FILE.parquet")
    parts = list(table_parts(path))
    if not any(part.num_rows for part in parts):
        raise ValueError(f"{where} has no rows; give a table with examples")
    table = pa.Table.from_batches(parts)
    columns = table.column_names
    if stage.label is None:
        raise ValueError(
            f"{where} needs the column of its labels; add stage.label=COLUMN, one of "
            f"{', '.join(columns)}"
        )
    names = [name for name in columns if name != stage.label]
    if stage.features is not None:
        names = list(stage.features)
    _check_columns(where, columns, {"label": [stage.label], "features": names})
    if stage.label in names:
        raise ValueError(
            f"stage.features has {stage.label}, which is the label: the model would see what it "
            "has to tell; leave it out"
        )
    features = [_feature(where, table, name) for name in names]
    labels = _label(where, table[stage.label], stage.label)
    return Examples(where, path, tuple(names), np.stack(features, 1), labels)


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


def _feature(where: str, table: "Table", name: str) -> Numbers:
    """A column of numbers, float64 (N,)."""
    import pyarrow as pa

    kind = table[name].type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise ValueError(
            f"{where}: column {name} is of type {kind}, and features must be numbers; make it "
            "numbers, or list the columns to learn from: stage.features=[A,B]"
        )
    return _numbers(where, table[name], name, "a feature")


def _label(where: str, column: "ChunkedArray", name: str) -> Labels:
    """The column of labels, int64 (N,)."""
    import pyarrow as pa

    whole = f"{where}: column {name} must hold whole numbers from 0, one for each class"
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise ValueError(f"{whole}, not values of type {column.type}; number the classes")
    values = _numbers(where, column, name, "a label")
    for wrong in (values != np.floor(values), values < 0):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"{whole}; row {row + 1} has {values[row]:g}")
    return values.astype(np.int64)


def _numbers(where: str, column: "ChunkedArray", name: str, what: str) -> Numbers:
    """Values without gaps, float64 (N,)."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    values: Numbers = column.cast(pa.float64(), safe=False).to_numpy()  # missing: NaN
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ValueError(
            f"{where}: column {name}: {what} is missing or not finite in "
            f"{counted(len(wrong), 'row')}, first in row {wrong[0] + 1}; fill these in, or leave "
            "the rows out"
        )
    return values
