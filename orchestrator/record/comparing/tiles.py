"""Pictures of several runs, side by side on one."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from orchestrator.record.figures import INK
from orchestrator.record.runs import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLANE = "plane.png"
"""In a run folder: a small square picture without words of how the run divides the plane."""
MOST_IN_A_ROW = 4
TITLE = 34  # characters of a line above a picture


def tiled(pictures: Mapping[str, Path], columns: int, size: tuple[float, float]) -> "Figure":
    """Pictures under their titles, each in a field of this size, inches."""
    from matplotlib.figure import Figure
    from matplotlib.image import imread

    rows = -(-len(pictures) // columns)
    whole = size[0] * columns, size[1] * rows
    figure = Figure(figsize=whole, layout="constrained", facecolor="white")
    fields = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in fields:
        axes.axis("off")
    for axes, (title, path) in zip(fields, pictures.items(), strict=False):
        axes.imshow(imread(path))
        axes.set_title(title, fontsize=9, color=INK)
    return figure


def planes(runs: Mapping[str, Run], groups: Sequence[str]) -> "Figure | None":
    """How runs divide the plane, by their names and results. None: not all of them do.

    Args:
        runs: by their names.
        groups: what each run has in common with those of its row; a row of its own for each, if
            they are of one length.
    """
    if not all((run.folder / PLANE).is_file() for run in runs.values()):
        return None
    titles = {}
    for name, run in runs.items():
        result = run.headline
        told = f"\n{result[0].rpartition('/')[2]} {result[1]:.4g}" if result else ""
        titles[f"{fill(name, TITLE, break_long_words=False)}{told}"] = run.folder / PLANE
    lengths = {len(list(own)) for _, own in groupby(groups)}
    columns = lengths.pop() if len(lengths) == 1 else 1
    return tiled(titles, columns if columns > 1 else min(len(runs), MOST_IN_A_ROW), (2.9, 3.0))
