"""A fit as a picture: loss over compute, and what it leaves unexplained."""

from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np

from orchestrator.record.figures import COLORS, INK, MUTED, WRONG, plain_axes
from orchestrator.record.predictions import Prediction
from orchestrator.scaling.points import Points
from orchestrator.scaling.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = 7  # sizes whose curves are drawn, spread over all of them
AROUND = 2.0  # times that a curve goes on beyond its runs, to either side


def draw(report: Report) -> "Figure":
    """Curves and runs of each size over compute; and the residuals, those that alarm marked."""
    from matplotlib.figure import Figure

    fit, points = report.fit, report.fit.points
    figure = Figure(figsize=(8, 7), layout="constrained", facecolor="white")
    above, below = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
    plain_axes(above, fit.form.formula, "loss, nats per token", "")
    sizes = sorted(set(points.parameters))
    shown = {sizes[round(i)] for i in np.linspace(0, len(sizes) - 1, min(CURVES, len(sizes)))}
    colors = dict(zip(sorted(shown), cycle(COLORS), strict=False))
    for size in sizes:
        own = points.take(points.parameters == size)
        color = colors.get(size, MUTED)
        above.plot(own.flops, own.loss, "o", color=color, markersize=4)
        if size in colors and fit.form.varies in (("N", "D"), ("D",)):
            _curve(above, report, own, color, f"N = {size:.3g}")
    _log_axes(above)
    for dashes, found in zip(("--", ":"), report.approaches, strict=False):
        if not isinstance(found, str):
            best = [(own.flops, own.loss) for own in found.best]
            above.plot(
                *zip(*best, strict=True), dashes, color=INK, linewidth=1, label=found.approach
            )
    if above.get_legend_handles_labels()[0]:
        above.legend(frameon=False, labelcolor=INK, fontsize=8)
    plain_axes(below, "", "residual", "training compute C, FLOPs")
    bad = np.isin([points.name(i) for i in range(len(points))], [o.name for o in report.outliers])
    residuals = np.expm1(fit.residuals)
    below.axhline(0, color=MUTED, linewidth=0.8)
    below.plot(points.flops[~bad], residuals[~bad], "o", color=COLORS[0], markersize=4)
    below.plot(points.flops[bad], residuals[bad], "x", color=WRONG)
    below.yaxis.set_major_formatter(lambda value, _: f"{value:+.1%}")
    return figure


def _curve(axes: "Axes", report: Report, own: Points, color: str, label: str) -> None:
    """The law for one size over compute, in its band."""
    flops = np.geomspace(own.flops.min() / AROUND, own.flops.max() * AROUND, 40)
    factor = float(np.median(own.flops / own.six_nd))
    sizes = np.full(len(flops), own.parameters[0])
    points = Points(sizes, flops / (6 * factor * sizes), np.ones(len(flops)), flops)
    middle, low, high = report.draws.predict(points)
    axes.plot(flops, middle, color=color, linewidth=1.5, label=label)
    axes.fill_between(flops, low, high, color=color, alpha=0.15, linewidth=0)


def draw_prediction(prediction: Prediction) -> "Figure":
    """The law for the size of a run, in its band, over the runs it goes by; and what came out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained", facecolor="white")
    axes = figure.subplots()
    title = f"{prediction.parameters:,.0f} parameters on {prediction.tokens:,.0f} tokens"
    plain_axes(axes, title, "loss, nats per token", "training compute C, FLOPs")
    sizes = sorted({point["parameters"] for point in prediction.points})
    for number, size in enumerate(sizes):
        own = [point for point in prediction.points if point["parameters"] == size]
        shade = 0.25 + 0.6 * (number + 1) / len(sizes)
        label = f"{len(prediction.points)} runs" if number == len(sizes) - 1 else None
        flops, loss = zip(*((point["flops"], point["loss"]) for point in own), strict=True)
        axes.plot(flops, loss, "o", color=MUTED, alpha=shade, markersize=4, label=label)
    curve = prediction.curve
    axes.plot(curve["flops"], curve["loss"], color=COLORS[0], linewidth=1.5, label="law, this size")
    axes.fill_between(
        curve["flops"], curve["low"], curve["high"], color=COLORS[0], alpha=0.15, linewidth=0
    )
    bars = [[prediction.loss - prediction.low], [prediction.high - prediction.loss]]
    told = f"predicted {prediction.loss:#.4g} ({prediction.low:#.4g} to {prediction.high:#.4g})"
    axes.errorbar(
        [prediction.flops], [prediction.loss], bars, fmt="s", color=COLORS[0], capsize=4, label=told
    )
    if prediction.truth is not None:
        truth = prediction.truth
        color, told = COLORS[1], f"measured {truth.loss:#.4g}: {prediction.error:+.2%}"
        axes.plot([truth.flops], [truth.loss], "*", color=color, markersize=12, label=told)
    _log_axes(axes)
    axes.legend(frameon=False, labelcolor=INK, fontsize=8)
    return figure


def _log_axes(axes: "Axes") -> None:
    """Both by factors, losses as plain numbers."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    for of in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        of(lambda value, _: f"{value:.3g}")
