"""Pictures of a sweep: each trial as a line through its values, and as a curve of its objective."""

import math
from collections.abc import Sequence
from pathlib import Path

from orchestrator.record.figures import COLORS, INK, MUTED, blank, read_series
from orchestrator.record.sweeps import PICTURES
from orchestrator.verbs.sweep.asked import Asked
from orchestrator.verbs.sweep.ranking import ranked
from orchestrator.verbs.sweep.space import Axis, Choices, Numbers, Value
from orchestrator.verbs.sweep.table import Trial

PARALLEL, CURVES = PICTURES
DRAWN = 200  # trials; more cannot be told apart


def parallel_coordinates(asked: Asked, trials: Sequence[Trial], folder: Path) -> None:
    """An axis for each setting and for the objective, and a line for each finished trial."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    done = [t for t in trials if t.values and t.seed_of is None and t.status == "done"][:DRAWN]
    if not done:
        return
    axes = asked.space.axes
    (metric, better), *_ = asked.objectives
    values = [trial.values[0] for trial in done]
    low, high = min(values), max(values)
    figure = Figure(figsize=(2.2 + 1.8 * len(axes), 4.8), layout="constrained", facecolor="white")
    panel = figure.subplots()
    best_first = sorted(done, key=lambda t: t.values[0], reverse=better == "lower")
    for trial in best_first:  # the best is drawn last, above the others
        last = _share(trial.values[0], low, high)
        heights = [_height(axis, trial.point[axis.name]) for axis in axes]
        good = 1 - last if better == "lower" else last
        panel.plot(
            range(len(axes) + 1),
            [*heights, last],
            color=colormaps["viridis"](good),
            linewidth=2.2 if trial is best_first[-1] else 1.0,
            alpha=1.0 if trial is best_first[-1] else 0.6,
        )
    for place, axis in enumerate(axes):
        panel.axvline(place, color=MUTED, linewidth=0.8)
        for height, label in _ticks(axis):
            panel.text(place, height, f" {label}", color=INK, fontsize=8, va="center")
    panel.axvline(len(axes), color=MUTED, linewidth=0.8)
    for height, value in ((0.0, low), (1.0, high)):
        panel.text(len(axes), height, f" {value:.4g}", color=INK, fontsize=8, va="center")
    names = [_cut(axis.name) for axis in axes]
    panel.set_xticks(range(len(axes) + 1), [*names, metric], fontsize=8, color=MUTED)
    panel.set_yticks([])
    panel.set_xlim(-0.1, len(axes) + 0.5)
    panel.set_ylim(-0.03, 1.03)  # of the axes, also where one line alone crosses a part of them
    for side in panel.spines.values():
        side.set_visible(False)
    figure.savefig(folder / PARALLEL, dpi=110)


def curves(asked: Asked, trials: Sequence[Trial], folder: Path) -> None:
    """The objective of each trial by its steps: the best in colour, the others grey."""
    (metric, _), *_ = asked.objectives
    figure, axes = blank(f"{metric} of each trial", metric)
    best = ranked(asked, trials)[: len(COLORS)]
    own = [trial for trial in trials if trial.seed_of is None and trial.folders]
    chosen = {trial.number for trial in best}
    rest = [trial for trial in own if trial.number not in chosen][:DRAWN]
    for trial in rest:
        steps, values = curve(trial, metric)
        axes.plot(steps, values, color=MUTED, linewidth=0.7, alpha=0.4)
    for color, trial in zip(COLORS, best, strict=False):
        steps, values = curve(trial, metric)
        axes.plot(steps, values, color=color, linewidth=2, label=f"trial {trial.number}")
    finite = [v for trial in best for v in curve(trial, metric)[1] if math.isfinite(v)]
    if finite:
        span = max(finite) - min(finite)
        axes.set_ylim(min(finite) - 0.1 * span - 1e-12, max(finite) + 0.5 * span + 1e-12)
    if best:
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    figure.savefig(folder / CURVES, dpi=110)


def curve(trial: Trial, metric: str) -> tuple[list[int], list[float]]:
    """A metric of a trial by its steps, over all of its runs."""
    found: dict[int, float] = {}
    for folder in trial.folders:
        steps, values = read_series(folder).get(metric, ([], []))
        found |= dict(zip(steps, values, strict=True))
    return list(found), list(found.values())


def _height(axis: Axis, value: Value) -> float:
    """Where a value is on its axis, from 0 to 1."""
    if isinstance(axis, Choices):
        places = list(axis.words)
        return places.index(str(value)) / max(1, len(places) - 1)
    if axis.log:
        return _share(math.log(float(value)), math.log(axis.low), math.log(axis.high))
    return _share(float(value), axis.low, axis.high)


def _ticks(axis: Axis) -> list[tuple[float, str]]:
    if isinstance(axis, Numbers):
        return [(0.0, f"{axis.low:.4g}"), (1.0, f"{axis.high:.4g}")]
    return [(_height(axis, own), _cut(own)) for own in axis.words]


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _cut(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:21]}..."
