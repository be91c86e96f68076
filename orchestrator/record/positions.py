"""Loss by the number of tokens that a model has seen, as a run keeps it, and drawn."""

from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record.figures import COLORS, INK, MUTED, blank

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "loss_by_position.csv"
BINS_PER_DOUBLING = 2  # of tokens seen; what falls in one is drawn as one point


def draw(runs: Mapping[str, Path], picture: Path) -> None:
    """A curve for each run folder, by its name in the legend."""
    figure, axes = blank("Loss by distance in the context", "validation loss, nats per token")
    curves_by_position(axes, runs)
    if len(runs) > 1:
        axes.legend(frameon=False, labelcolor=INK)
    figure.savefig(picture, dpi=120)


def curves_by_position(axes: "Axes", runs: Mapping[str, Path]) -> None:
    """The curves alone, for a picture of several axes."""
    for color, (name, folder) in zip(cycle(COLORS), runs.items(), strict=False):
        places, losses = binned(folder / FILE)
        axes.plot(places, losses, color=color, linewidth=2, marker="o", markersize=3, label=name)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("tokens that were seen", color=MUTED)


def binned(file: Path) -> tuple[list[float], list[float]]:
    """Tokens seen and mean losses, in bins that grow with the former."""
    import numpy as np

    seen, tokens, losses = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2).T
    # Powers of 2 end a bin: the longest context would else be one alone, of few tokens.
    bins = np.ceil(BINS_PER_DOUBLING * np.log2(seen)).astype(int)
    found = []
    for own in np.unique(bins):
        chosen = bins == own
        found.append([float(np.average(x[chosen], weights=tokens[chosen])) for x in (seen, losses)])
    return [x for x, _ in found], [y for _, y in found]
