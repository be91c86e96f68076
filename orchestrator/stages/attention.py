"""Attention weights as pictures.

T tokens that look, S tokens that are looked at.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_map(
    weights: Tensor, lookers: Sequence[str], looked_at: Sequence[str], title: str
) -> "Figure":
    """Weights (T, S) as fields, darker for more; a row for each token that looks."""
    from matplotlib.figure import Figure

    T, S = weights.shape
    figure = Figure(
        figsize=(max(4.0, 1.6 + 0.42 * S), max(3.0, 1.6 + 0.36 * T)),
        layout="constrained",
        facecolor="white",
    )
    axes = figure.subplots()
    axes.imshow(weights.float().cpu().numpy(), cmap="Blues", vmin=0, aspect="auto")
    axes.set_xticks(range(S), looked_at, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(T), lookers)
    axes.set_xlabel("is looked at")
    axes.set_ylabel("looks, to write")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    return figure


def draw_looks(
    fields: Sequence[tuple[str, Tensor, Sequence[str]]], heads: Sequence[str], title: str
) -> "Figure":
    """What one token looks at, head by head.

    Args:
        fields: side by side: a title, weights (heads, S), and the S tokens that are looked at.
        heads: a name for each.
        title: of the whole.
    """
    from matplotlib.figure import Figure

    widths = [1.5 + 0.42 * len(looked_at) for _, _, looked_at in fields]
    figure = Figure(
        figsize=(sum(widths) + 1, 1.8 + 0.36 * len(heads)), layout="constrained", facecolor="white"
    )
    line = figure.subplots(1, len(fields), squeeze=False, width_ratios=widths)[0]
    for axes, (own, weights, looked_at) in zip(line, fields, strict=True):
        axes.imshow(weights.float().cpu().numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(
            range(len(looked_at)), looked_at, rotation=60, ha="right", rotation_mode="anchor"
        )
        axes.set_yticks(range(len(heads)), heads)
        axes.set_title(own, loc="left", fontsize=10)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def draw_heads(
    layers: Sequence[Tensor], lookers: Sequence[str], looked_at: Sequence[str], title: str
) -> "Figure":
    """Weights (H, T, S) of each layer: a field of fields, a row for each layer."""
    from matplotlib.figure import Figure

    rows, (columns, T, S) = len(layers), layers[0].shape
    side = 0.13 * max(T, S) + 0.7
    figure = Figure(
        figsize=(columns * side + 1.2, rows * side + 1.4), layout="constrained", facecolor="white"
    )
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for layer, (own, line) in enumerate(zip(layers, grid, strict=True), 1):
        for head, (weights, axes) in enumerate(zip(own, line, strict=True), 1):
            axes.imshow(weights.float().cpu().numpy(), cmap="Blues", vmin=0, vmax=1)
            axes.set_title(f"layer {layer}, head {head}", fontsize=8)
            axes.set_xticks(range(S), looked_at, rotation=90, fontsize=7)
            axes.set_yticks(range(T), lookers, fontsize=7)
            axes.tick_params(length=0)
    figure.suptitle(f"{title}: each row looks at the columns, darker for more", fontsize=10)
    return figure
