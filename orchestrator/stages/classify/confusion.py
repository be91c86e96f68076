"""Which class was taken for which: the matrix as a table and as a picture.

C classes; row i, column j of a matrix (C, C): examples of class i that were taken for class j.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.stages.result import Table, interval

Matrix = NDArray[np.int64]
Told = NDArray[np.int64]
"""(N, 2): label and predicted class of each of N examples."""
MOST_WRITTEN = 30  # classes up to which each field of the picture has its number


def matrix_of(told: Told, classes: int) -> Matrix:
    """The matrix of what was told of examples."""
    pairs = told[:, 0] * classes + told[:, 1]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def accuracy(matrix: Matrix) -> float:
    """Share of the examples whose class was told."""
    return float(matrix.trace() / matrix.sum())


def accuracy_table(matrix: Matrix) -> Table:
    """What of the examples is right, with the interval of 95% for as many more (Wilson 1927).

    Beside it what it takes to beat: the class that most of them have, told of each.
    """
    examples, most = int(matrix.sum()), int(matrix.sum(1).max())
    rows = [
        (name, f"{right / examples:.1%}", "{:.1%} to {:.1%}".format(*interval(right, examples)))
        for name, right in (
            ("this model", int(matrix.trace())),
            ("always the most frequent class", most),
        )
    ]
    return Table("accuracy", (f"of {examples:,} examples", "right", "95% interval"), tuple(rows), 0)


def table(matrix: Matrix, names: Sequence[str]) -> Table:
    """The matrix as a table: a row per class, with the share of it that was told."""
    classes = range(len(matrix))
    rows = []
    for label in classes:
        seen = int(matrix[label].sum())
        told = f"{matrix[label, label] / seen:.1%}" if seen else "no examples"
        rows.append((names[label], *(str(n) for n in matrix[label].tolist()), told))
    columns = ("class taken for", *names, "right")
    return Table("confusion", columns, tuple(rows))


def save(matrix: Matrix, names: Sequence[str], path: Path) -> None:
    """The matrix as a picture: each row in parts of its class, darker for more."""
    from matplotlib.figure import Figure

    classes, longest = len(matrix), max(map(len, names))
    side = min(12.0, 3.0 + 0.45 * classes)
    figure = Figure(figsize=(side, side), layout="constrained", facecolor="white")
    axes = figure.subplots()
    parts = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(
        f"{accuracy(matrix):.1%} of {matrix.sum():,} examples right",
        loc="left",
        fontsize=12,
        fontweight="bold",
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    if classes <= MOST_WRITTEN:
        axes.set_xticks(range(classes), names, rotation=90 if longest > 2 else 0)
        axes.set_yticks(range(classes), names)
        for (i, j), number in np.ndenumerate(matrix):
            if number:
                color = "white" if parts[i, j] > 0.5 else "#1a1a19"
                axes.text(j, i, str(number), ha="center", va="center", color=color, fontsize=9)
    figure.savefig(path, dpi=120)
