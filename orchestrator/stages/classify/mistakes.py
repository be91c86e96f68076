"""The pictures that were read wrongly, on one page."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.stages.features.splits import Split

MOST = 60
COLUMNS = 10


def save(
    split: Split,
    told: NDArray[np.int64],
    shape: tuple[int, int],
    names: Sequence[str],
    path: Path,
) -> None:
    """The first MOST of them, each with its label and what it was taken for.

    Args:
        split: of the pictures (N of them), whose features are their pixels.
        told: (N, 2): label and predicted class.
        shape: rows and columns of pixels.
        names: of the classes.
        path: of the file.
    """
    from matplotlib.figure import Figure

    wrong = np.flatnonzero(told[:, 0] != told[:, 1])
    shown = wrong[:MOST]
    pictures, _ = split.take(shown)
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(9, 1.05 * rows + 0.6), layout="constrained", facecolor="white")
    all_axes = np.atleast_1d(figure.subplots(rows, COLUMNS, squeeze=False).ravel())
    for axes in all_axes:
        axes.axis("off")
    for axes, row, picture in zip(all_axes, shown, pictures, strict=False):
        axes.imshow(picture.reshape(shape), cmap="gray_r")
        label, predicted = (names[number] for number in told[row])
        axes.set_title(f"{label} read as {predicted}", fontsize=7, pad=2, color="#c3372f")
    more = f", the first {len(shown)} of them" if len(shown) < len(wrong) else ""
    figure.suptitle(
        f"{len(wrong):,} of {len(told):,} read wrongly{more}", fontsize=11, fontweight="bold"
    )
    figure.savefig(path, dpi=120)
