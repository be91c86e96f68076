"""The curves of several runs in one picture: training on the left, validation on the right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record.figures import (
    COLORS,
    GRID,
    INK,
    LOG_FROM,
    MUTED,
    SMOOTH_FROM,
    Points,
    read_series,
    running_mean,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAINING = ("train/loss",)
VALIDATION = ("validation/bits_per_byte", "validation/loss", "validation/rmse")
"""What is shown on each side: the first of them that all runs have measured."""
STYLES = ("-", "--", ":")  # one after another, when colours begin anew
HIGHEST = 20.0
"""Of values that are shown, in parts of the median curve's largest: one run that diverges must not
make lines of all the others."""


@dataclass(frozen=True)
class Shown:
    """A run in the picture."""

    label: str
    folder: Path


def draw(runs: Sequence[Shown], picture: Path) -> None:
    """Draw the curves of these runs into a PNG; without a common metric, that is said there."""
    from matplotlib.figure import Figure

    series = [read_series(run.folder) for run in runs]
    figure = Figure(figsize=(11, 4.8), layout="constrained", facecolor="white")
    for axes, wanted in zip(figure.subplots(1, 2), (TRAINING, VALIDATION), strict=True):
        metric = next((m for m in wanted if all(m in own for own in series)), None)
        axes.set_xlabel("optimizer step", color=MUTED)
        axes.set_ylabel(metric or f"no {wanted[0]} in all runs", color=MUTED)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if metric is not None:
            _curves(axes, [own[metric] for own in series], [run.label for run in runs])
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not handles:
        handles, labels = figure.axes[1].get_legend_handles_labels()
    if handles:
        columns = max(1, min(4, 120 // (max(map(len, labels)) + 6)))
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            labelcolor=INK,
            fontsize=9,
        )
    figure.savefig(picture, dpi=110)


def _curves(axes: "Axes", curves: Sequence[Points], labels: Sequence[str]) -> None:
    colored = cycle([(color, style) for style in STYLES for color in COLORS])
    tops = []
    for (steps, values), label, (color, style) in zip(curves, labels, colored, strict=False):
        smooth = running_mean(values, len(steps) // 50) if len(steps) >= SMOOTH_FROM else values
        marker = "o" if len(steps) == 1 else None
        axes.plot(
            steps, smooth, color=color, linestyle=style, linewidth=1.6, label=label, marker=marker
        )
        tops.append(max((v for v in smooth if math.isfinite(v)), default=0.0))
    finite = [v for _, values in curves for v in values if math.isfinite(v)]
    most = HIGHEST * sorted(tops)[len(tops) // 2]
    if finite and min(finite) > 0 and min(max(finite), most) > LOG_FROM * min(finite):
        axes.set_yscale("log")
    if finite and max(tops) > most > 0:
        axes.set_ylim(top=most)
