"""What a model puts in the masks of texts, as a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.record.figures import COLORS, INK, plain_axes
from orchestrator.stages.language.filling import Filling

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_fillings(found: Sequence[tuple[str, Filling]]) -> "Figure":
    """A panel for each mask, over which its text stands: the likeliest tokens and their chances."""
    from matplotlib.figure import Figure

    size = 5.2 * len(found), 0.42 * len(found[0][1].tokens) + 1.2
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    for axes, (text, filling) in zip(
        figure.subplots(1, len(found), squeeze=False).flat, found, strict=True
    ):
        plain_axes(axes, text, "", "probability")
        places = range(len(filling.tokens))
        bars = axes.barh(places, filling.chances, color=COLORS[0], height=0.6)
        axes.bar_label(bars, fmt="{:.0%}", padding=4, color=INK)
        axes.set_yticks(places, [repr(token.strip())[1:-1] for token in filling.tokens])
        axes.set_xlim(0, 1.15 * max(filling.chances))
        axes.invert_yaxis()
    return figure
