"""The runs of a sweep in one picture: by steps, by time, by parameters, by distance."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record.comparing.differences import curves, smooth
from orchestrator.record.figures import COLORS, INK, MUTED, Points, plain_axes
from orchestrator.record.positions import FILE as BY_POSITION
from orchestrator.record.positions import curves_by_position
from orchestrator.record.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "time_size_distance.png"
TRAINED, MEASURED, SECONDS = "train/loss", "validation/loss", "train/seconds"


def parameters(run: Run) -> int | None:
    """Of all models of a run together. None: it does not say."""
    for event in run.events:
        if event.get("event") == "started" and isinstance(event.get("roles"), dict):
            return sum(int(role["parameters"]) for role in event["roles"].values())
    return None


def draw(runs: Mapping[str, Run], picture: Path) -> bool:
    """Draw what runs, by their names in the legend, have in common; false if that is nothing."""
    series = {name: curves(run) for name, run in runs.items()}
    series = {name: own for name, own in series.items() if own.get(TRAINED)}
    if len(series) < 2:
        return False
    from matplotlib.figure import Figure

    sizes = {name: parameters(runs[name]) for name in series}
    by_size = len(set(sizes.values())) > 1 and None not in sizes.values()
    by_position = all((runs[name].folder / BY_POSITION).is_file() for name in series)
    measured = all(own.get(MEASURED) and own.get(SECONDS) for own in series.values())
    panels = 1 + measured * (1 + by_size) + by_position
    figure = Figure(figsize=(11, 4.2 * -(-panels // 2)), layout="constrained", facecolor="white")
    axes = iter(figure.subplots(-(-panels // 2), 2 if panels > 1 else 1, squeeze=False).flat)
    first = next(axes)
    plain_axes(first, "Training loss by steps", "loss, running mean", "optimizer step")
    for color, (name, own) in zip(cycle(COLORS), series.items(), strict=False):
        means = smooth(own[TRAINED])
        first.plot(list(means), list(means.values()), color=color, linewidth=2, label=name)
    first.legend(frameon=False, labelcolor=INK)
    if measured:
        _by_time(next(axes), series)
    if measured and by_size:
        _by_size(next(axes), series, {name: size or 0 for name, size in sizes.items()})
    if by_position:
        last = next(axes)
        plain_axes(last, "Validation loss by distance in the context", "loss", "")
        curves_by_position(last, {name: runs[name].folder for name in series})
    for unused in axes:
        unused.remove()
    figure.savefig(picture, dpi=100)
    return True


def _by_time(axes: "Axes", series: Mapping[str, Mapping[str, Points]]) -> None:
    plain_axes(axes, "Validation loss by time", "loss", "seconds in optimizer steps")
    for color, own in zip(cycle(COLORS), series.values(), strict=False):
        at = dict(zip(*own[SECONDS], strict=True))
        points = [(at[step], loss) for step, loss in zip(*own[MEASURED], strict=True) if step in at]
        axes.plot(*zip(*points, strict=True), color=color, linewidth=2, marker="o", markersize=4)


def _by_size(
    axes: "Axes", series: Mapping[str, Mapping[str, Points]], sizes: Mapping[str, int]
) -> None:
    plain_axes(axes, "Validation loss by parameters, at the end", "loss", "million parameters")
    for color, (name, own) in zip(cycle(COLORS), series.items(), strict=False):
        size, loss = sizes[name] / 1e6, own[MEASURED][1][-1]
        axes.plot(size, loss, "o", color=color, markersize=9)
        axes.annotate(
            name, (size, loss), (0, 9), textcoords="offset points", ha="center", color=MUTED
        )
    axes.set_xlim(0, 1.2 * max(sizes.values()) / 1e6)
    axes.margins(y=0.25)
