"""The pictures that were read wrongly, on one page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from orchestrator.stages.features.splits import Split, Standard

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 60
COLUMNS = 10


def draw(
    split: Split,
    told: NDArray[np.int64],
    standard: Standard,
    shape: tuple[int, int],
    names: Sequence[str],
) -> "Figure":
    """The first MOST of them, each with its label and what it was taken for.

    Args:
        split: of the pictures (N of them), whose features are their pixels.
        told: (N, 2): label and predicted class.
        standard: how pixels were scaled.
        shape: rows and columns of pixels.
        names: of the classes.
    """
    from matplotlib.figure import Figure

    wrong = np.flatnonzero(told[:, 0] != told[:, 1])
    shown = wrong[:MOST]
    pictures = split.take(shown)[0] * np.array(standard.std) + np.array(standard.mean)
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    size = max(4.0, 0.9 * columns), 1.1 * rows + 0.5
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
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
    return figure
