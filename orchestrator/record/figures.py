"""Figures of a training run, drawn from its journal with Matplotlib's object interface."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record.descent import Descent
from orchestrator.record.lines import METRICS, read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Kind:
    """A figure: the metrics whose names match a pattern, one curve each."""

    title: str
    label: str
    """Of the y axis."""
    metrics: str
    """Pattern of names, as in `fnmatch`."""
    noisy: bool = False
    """Whether a long curve is drawn under its running mean."""


# By file name; a figure without any data is left out. Units are the stage's own.
FIGURES = {
    "loss": Kind("Loss", "loss", "*/loss", noisy=True),
    "accuracy": Kind("Accuracy", "fraction right", "*/accuracy", noisy=True),
    "exact": Kind("Exact answers", "fraction of held-out answers", "*/exact"),
    "reward": Kind("Reward", "mean of an answer", "*/*reward", noisy=True),
    "kl": Kind("KL from the reference", "nats per token", "*/kl", noisy=True),
    "learning_rate": Kind("Learning rate", "learning rate", "*/learning_rate"),
    "gradient_norm": Kind(
        "Gradient norm before clipping", "global L2 norm", "*/gradient_norm", noisy=True
    ),
    "throughput": Kind("Throughput", "per second, all ranks", "*_per_second", noisy=True),
}
# A palette that also people who see few colours can tell apart (Okabe and Ito), after our own two.
COLORS = ("#2a78d6", "#eb6834", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5cc2", "#6b6a64")
INK, MUTED, GRID, WRONG = "#1a1a19", "#6b6a64", "#e4e3dd", "#c3372f"
SMOOTH_FROM = 50  # points; fewer show their own shape
LOG_FROM = 30  # largest by smallest value from which the y axis is logarithmic

Points = tuple[list[int], list[float]]


def training_figures(folder: Path) -> "dict[str, Figure]":
    """Figures of what FIGURES names, against the step.

    Values that are not finite leave a gap and are marked at the top of the axes.
    """
    series = read_series(folder)
    figures = {}
    for name, kind in FIGURES.items():
        curves = {key: series[key] for key in series if fnmatchcase(key, kind.metrics)}
        if curves:
            figures[name] = _draw(kind, curves)
    return figures


def read_series(folder: Path) -> dict[str, Points]:
    """Metric -> (steps, values), steps rising, of the lines that count; see `record/descent.py`."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    descent = Descent(folder)
    offset = 0
    while True:
        lines, offset = read(folder / METRICS, offset, max_bytes=1 << 20)
        if not lines:
            break
        for line in lines:
            if descent.holds(line["attempt"], line["step"]):
                for key, value in line["metrics"].items():
                    values[key][line["step"]] = value
    return {key: (sorted(v), [v[step] for step in sorted(v)]) for key, v in values.items()}


def _draw(kind: Kind, curves: dict[str, Points]) -> "Figure":
    figure, axes = blank(kind.title, kind.label)
    for color, (legend, (steps, values)) in zip(cycle(COLORS), curves.items(), strict=False):
        _curve(axes, steps, values, color, legend, kind.noisy)
    finite = [v for _, values in curves.values() for v in values if math.isfinite(v)]
    if finite and min(finite) > 0 and max(finite) > LOG_FROM * min(finite):
        axes.set_yscale("log")
    if len(curves) > 1 or len(finite) < sum(len(values) for _, values in curves.values()):
        axes.legend(frameon=False, labelcolor=INK)
    return figure


def blank(title: str, label: str) -> "tuple[Figure, Axes]":
    """A figure without curves, over optimizer steps, in the look of all figures; and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    plain_axes(axes, title, label, "optimizer step")
    return figure, axes


def plain_axes(axes: "Axes", title: str, y_label: str, x_label: str) -> None:
    """Give empty axes their words and the look of all figures."""
    axes.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlabel(x_label, color=MUTED)
    axes.set_ylabel(y_label, color=MUTED)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=MUTED, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _curve(
    axes: "Axes", steps: list[int], values: list[float], color: str, legend: str, noisy: bool
) -> None:
    """One curve; a long noisy one is drawn pale under its running mean."""
    import numpy as np

    x, y = np.asarray(steps), np.asarray(values, dtype=float)
    finite = np.isfinite(y)
    y = np.where(finite, y, np.nan)
    if len(steps) < SMOOTH_FROM:
        axes.plot(x, y, color=color, linewidth=2, marker="o", markersize=4, label=legend)
    elif noisy:
        axes.plot(x, y, color=color, linewidth=0.8, alpha=0.35)
        axes.plot(x, running_mean(values, len(steps) // 50), color=color, linewidth=2, label=legend)
    else:
        axes.plot(x, y, color=color, linewidth=2, label=legend)
    if not finite.all():
        edge = np.ones(int((~finite).sum()))
        axes.plot(x[~finite], edge, "x", color=WRONG, transform=axes.get_xaxis_transform())
        axes.plot([], [], "x", color=WRONG, label="not finite")


def running_mean(values: Sequence[float], half: int) -> list[float]:
    """Mean over the finite values at most `half` places away; NaN where there is none."""
    import numpy as np

    y = np.asarray(values, dtype=float)
    finite = np.isfinite(y)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, y, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    start = np.maximum(np.arange(len(y)) - half, 0)
    end = np.minimum(np.arange(len(y)) + half + 1, len(y))
    count = counts[end] - counts[start]
    mean = (sums[end] - sums[start]) / np.maximum(count, 1)
    return list(np.where(count > 0, mean, np.nan))
