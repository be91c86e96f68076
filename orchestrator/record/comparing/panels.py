"""The runs of a sweep in one picture: how their losses fell, and how each ended, best first.

A panel is drawn of what all of them have: training and validation by steps, the result, validation
by time, and where models differ in size or read text, by parameters and by distance.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from orchestrator.record.comparing.differences import curves, smooth
from orchestrator.record.figures import COLORS, INK, LOG_FROM, MUTED, plain_axes
from orchestrator.record.positions import FILE as BY_POSITION
from orchestrator.record.positions import curves_by_position
from orchestrator.record.runs import Run, common_headline, ranked, words_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TRAINING, SECONDS = "train/loss", "train/seconds"
VALIDATION = ("validation/bits_per_byte", "validation/rmse", "validation/loss")
"""What validation is drawn by: the first of them that all runs have measured."""
STYLES = ("-", "--", ":")  # one after another, when colours begin anew
HIGHEST = 20.0
"""Of values that are shown, in parts of the median curve's largest: one run that diverges must not
make lines of all the others."""
FARTHEST = 20.0
"""Lowest validation loss in parts of the lowest training loss, up to which they share a scale."""
LEAST_S = 5.0
"""In optimizer steps of the median run, from which on time is more than noise."""
LEAST_SIZE, LEAST_RATIO = 1000, 1.1
"""Parameters of the smallest model, and the largest one's in parts of them, from which on sizes say
something."""
WIDTH, HEIGHT = 5.5, 3.9  # of a panel, inches
KEPT = "kept as the best"
LEGEND = 110  # characters in a row of it

Panel = Callable[["Axes"], None]
Curve = tuple[Sequence[float], Sequence[float]]


def compared(runs: Mapping[str, Run]) -> "Figure":
    """The picture of runs, by their names in the legend."""
    from matplotlib.figure import Figure

    comparison = _Comparison(runs)
    panels = comparison.panels()
    rows = max(1, -(-len(panels) // 2))
    size = 2 * WIDTH, HEIGHT * rows + 0.6
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    axes = figure.subplots(rows, 2, squeeze=False).ravel()
    if comparison.alike:
        axes[1].sharey(axes[0])  # what was learned by heart is seen at a glance
    for panel, own in zip(panels, axes, strict=False):
        panel(own)
    for unused in axes[len(panels) :]:
        unused.remove()
    if panels:
        figure.legend(
            handles=[line for line in axes[0].get_lines() if line.get_label() in runs],
            loc="outside lower center",
            ncols=max(1, min(5, LEGEND // (max(map(len, runs)) + 6))),
            frameon=False,
            labelcolor=INK,
            fontsize=9,
        )
    else:
        figure.text(0.5, 0.5, "these runs have measured nothing in common", ha="center", color=INK)
    return figure


class _Comparison:
    """What runs have in common, and the panels that show it."""

    def __init__(self, runs: Mapping[str, Run]) -> None:
        self.runs = runs
        self.series = {name: curves(run) for name, run in runs.items()}
        looks = cycle([(color, style) for style in STYLES for color in COLORS])
        self.looks: dict[str, dict[str, Any]] = {
            name: {"color": color, "linestyle": style, "linewidth": 1.8, "label": name}
            for name, (color, style) in zip(runs, looks, strict=False)
        }
        self.validation = next((name for name in VALIDATION if self.all_have(name)), "")
        self.result = common_headline(runs.values())

    def all_have(self, metric: str) -> bool:
        """Whether all runs have measured it."""
        return all(own.get(metric) for own in self.series.values())

    @property
    def alike(self) -> bool:
        """Whether the first two panels show the same, of training and of validation.

        Not where training goes so far down that validation would be a line.
        """
        if not self.validation.endswith("/loss") or not self.all_have(TRAINING):
            return False
        trained, validated = (
            min((value for own in found for value in own if math.isfinite(value)), default=0.0)
            for found in (
                [smooth(own[TRAINING]).values() for own in self.series.values()],
                [own[self.validation][1] for own in self.series.values()],
            )
        )
        return validated <= FARTHEST * trained

    def panels(self) -> list[Panel]:
        """Those for which all have what it takes."""
        timed = bool(self.validation) and self.all_have(SECONDS)
        seconds = sorted(own[SECONDS][1][-1] for own in self.series.values()) if timed else [0.0]
        sizes = {run.parameters or 0 for run in self.runs.values()}
        found: dict[Panel, bool] = {
            self.training: self.all_have(TRAINING),
            self.by_steps: bool(self.validation),
            self.by_result: self.result is not None,
            self.by_time: seconds[len(seconds) // 2] >= LEAST_S,
            self.by_size: self.result is not None
            and max(sizes) >= LEAST_RATIO * min(sizes)
            and min(sizes) >= LEAST_SIZE,
            self.by_distance: all((r.folder / BY_POSITION).is_file() for r in self.runs.values()),
        }
        return [panel for panel, there in found.items() if there]

    def training(self, axes: "Axes") -> None:
        plain_axes(axes, "Training", "training loss, running mean", "optimizer step")
        means = [smooth(own[TRAINING]) for own in self.series.values()]
        self._curves(axes, [(list(own), list(own.values())) for own in means])

    def by_steps(self, axes: "Axes") -> None:
        plain_axes(axes, "Validation", words_of(self.validation), "optimizer step")
        self._curves(axes, [own[self.validation] for own in self.series.values()])
        self._kept(axes)
        self._baselines(axes)

    def _kept(self, axes: "Axes") -> None:
        """A star where the weights were that a run has kept as its best."""
        for name, run in self.runs.items():
            best = run.result.get("best")
            if isinstance(best, Mapping) and self.validation in best.get("metrics", {}):
                value = best["metrics"][self.validation]
                color = self.looks[name]["color"]
                axes.plot(best["step"], value, "*", color=color, markersize=13, label=KEPT)
        stars = [line for line in axes.get_lines() if line.get_label() == KEPT]
        if stars:
            axes.legend(handles=stars[:1], frameon=False, labelcolor=INK)

    def _baselines(self, axes: "Axes") -> None:
        """What all runs have to beat, as far as it lies where the curves are."""
        results = [run.result.get("baselines") or {} for run in self.runs.values()]
        known = [own.get(self.validation) for own in results]
        if not known[0] or any(own != known[0] for own in known):
            return
        low, high = axes.get_ylim()
        for name, value in known[0].items():
            if low < value < high:
                axes.axhline(value, color=MUTED, linestyle=":", linewidth=1)
                axes.annotate(
                    name, (1, value), (0, 2), xycoords=("axes fraction", "data"),
                    textcoords="offset points", ha="right", color=MUTED, fontsize=8,
                )  # fmt: skip

    def by_time(self, axes: "Axes") -> None:
        plain_axes(axes, "By time", words_of(self.validation), "seconds in optimizer steps")
        found: list[Curve] = []
        for own in self.series.values():
            at = dict(zip(*own[SECONDS], strict=True))
            points = [(at[s], value) for s, value in zip(*own[self.validation], strict=True)
                      if s in at]  # fmt: skip
            found.append(([x for x, _ in points], [y for _, y in points]))
        self._curves(axes, found)

    def by_result(self, axes: "Axes") -> None:
        """A dot for each run, the best at the top."""
        assert self.result is not None
        plain_axes(axes, "Result, best first", "", words_of(self.result))
        names = {run.folder: name for name, run in self.runs.items()}
        order = [names[run.folder] for run in ranked(self.runs.values(), self.result)]
        values = [self.runs[name].metrics[self.result] for name in order]
        for place, (name, value) in enumerate(zip(order, values, strict=True)):
            axes.plot(value, place, "o", color=self.looks[name]["color"], markersize=8)
            axes.annotate(
                self.runs[name].told(self.result), (value, place), (9, 0),
                textcoords="offset points", va="center", color=MUTED, fontsize=9,
            )  # fmt: skip
            axes.annotate(
                name, (0, place), (3, 8), xycoords=("axes fraction", "data"),
                textcoords="offset points", color=INK, fontsize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(order)), [""] * len(order))
        axes.set_ylim(len(order) - 0.5, -0.5)
        axes.margins(x=0.2)
        if min(values) > 0 and max(values) > LOG_FROM * min(values):
            axes.set_xscale("log")

    def by_size(self, axes: "Axes") -> None:
        """A dot for each run, those of a family in a line."""
        from matplotlib.ticker import EngFormatter

        assert self.result is not None
        plain_axes(axes, "By parameters", words_of(self.result), "parameters")
        families = defaultdict(list)
        for name, run in self.runs.items():
            if self.result not in run.metrics:
                continue  # it failed
            point = run.parameters or 0, run.metrics[self.result]
            axes.plot(*point, "o", color=self.looks[name]["color"], markersize=9)
            families[run.settings.get("model.family")].append(point)
        for family, points in families.items():
            axes.plot(*zip(*sorted(points), strict=True), color=MUTED, linewidth=1, zorder=1)
            axes.annotate(
                str(family), max(points), (9, 0), textcoords="offset points", va="center",
                color=MUTED, fontsize=9,
            )  # fmt: skip
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.margins(x=0.25, y=0.15)

    def by_distance(self, axes: "Axes") -> None:
        plain_axes(axes, "By distance in the context", "validation loss per token", "")
        curves_by_position(axes, {name: run.folder for name, run in self.runs.items()})

    def _curves(self, axes: "Axes", points: Sequence[Curve]) -> None:
        """A curve for each run; logarithmic if they reach far, cut off above what most reach."""
        tops, values = [], []
        for (x, y), look in zip(points, self.looks.values(), strict=True):
            axes.plot(x, y, marker="o" if len(x) == 1 else None, **look)
            finite = [value for value in y if math.isfinite(value)]
            tops.append(max(finite, default=0.0))
            values += finite
        most = HIGHEST * sorted(tops)[len(tops) // 2]
        if values and min(values) > 0 and min(max(values), most) > LOG_FROM * min(values):
            axes.set_yscale("log")
        if max(tops) > most > 0:
            axes.set_ylim(top=most)
