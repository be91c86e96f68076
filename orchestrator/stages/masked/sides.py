"""What the tokens on either side of a masked one tell of it: measured, and drawn.

N places of the validation text, T tokens around each, V vocabulary.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from data import ShardSet
from models.bert import Bert
from orchestrator.record.figures import COLORS, INK, MUTED, plain_axes
from orchestrator.stages.language.filling import Filling, shown
from orchestrator.stages.result import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "sides.png"
FROM = {
    "left": "what is before it alone",
    "right": "what is behind it alone",
    "both": "both sides",
}
MOST_PLACES = 1000
AT_ONCE = 100
MOST_COUNTED = 2**24
"""Tokens of a dataset of which frequencies are taken; the first ones."""


class Told(NamedTuple):
    """How well masked tokens are told."""

    loss: float
    """In nats per token."""
    accuracy: float


@dataclass(frozen=True)
class Sides:
    """How well one masked token is told from what stands beside it."""

    reaches: tuple[int, ...]
    """Tokens that are seen on a side."""
    told: Mapping[str, tuple[Told, ...]]
    """For each side in FROM and each reach."""
    most_frequent: float
    """Share that is right by always telling the token that is most frequent among them."""

    def table(self) -> Table:
        """What all tokens of each side tell."""
        rows = tuple(
            (FROM[side], f"{own[-1].loss:.3f}", f"{own[-1].accuracy:.1%}")
            for side, own in self.told.items()
        )
        columns = ("one masked token told from", "nats per token", "right")
        return Table("sides", columns, rows, bold=len(rows) - 1)


def places(sets: Iterable[ShardSet], length: int, end: int) -> Tensor:
    """Rows (N, T) of validation text, evenly spread, whose middle token is one of text."""
    sets = [own for own in sets if own.tokens > length]
    each = MOST_PLACES // max(len(sets), 1)
    rows = [
        own.read_many(
            np.unique(np.linspace(0, own.tokens - length, each).astype(np.int64)), length
        ).astype(np.int64)
        for own in sets
    ]
    if not rows:
        return torch.empty(0, length, dtype=torch.int64)
    found = torch.from_numpy(np.concatenate(rows))
    return found[found[:, length // 2] != end]


@torch.inference_mode()
def measure(model: Bert, rows: Tensor, mask: int) -> Sides:
    """Mask the middle of each row (N, T), and let the model see more and more of what is beside it.

    Args:
        model: in evaluation mode.
        rows: int64, on the CPU.
        mask: the token that stands for what is masked.
    """
    N, T = rows.shape
    middle = T // 2
    reaches = (0, *(2**n for n in range(middle.bit_length()) if 2**n < middle), middle)
    distance = torch.arange(T) - middle
    within = {"left": distance <= 0, "right": distance >= 0, "both": distance == distance}
    targets, masked = rows[:, middle], rows.clone()
    masked[:, middle] = mask
    told: dict[str, list[Told]] = {}
    for side in FROM:
        for reach in reaches:
            seen = (within[side] & (distance.abs() <= reach)).expand(N, T)
            logits = torch.cat(
                [
                    model.logits(
                        model.hidden(masked[n : n + AT_ONCE], seen[n : n + AT_ONCE])[:, middle]
                    ).float()
                    for n in range(0, N, AT_ONCE)
                ]
            )  # (N, V)
            loss = float(functional.cross_entropy(logits, targets))
            right = float((logits.argmax(1) == targets).float().mean())
            told.setdefault(side, []).append(Told(loss, right))
    usual = float(targets.bincount().max() / N)
    return Sides(reaches, {side: tuple(own) for side, own in told.items()}, usual)


def draw(sides: Sides | None, fillings: Sequence[tuple[str, Filling]], path: Path) -> None:
    """Curves of what each side tells, and the likeliest tokens for the masks of the prompts.

    Args:
        sides: as measured; None where there is too little validation text.
        fillings: of each mask, with the prompt it is in.
        path: of the picture.
    """
    from matplotlib.figure import Figure

    columns = (sides is not None) + bool(fillings)
    figure = Figure(figsize=(5.8 * columns, 4.4), layout="constrained", facecolor="white")
    if sides is not None:
        _draw_sides(figure.add_subplot(1, columns, 1), sides)
    if fillings:
        _draw_fillings(figure.add_subplot(1, columns, columns), fillings)
    figure.savefig(path, dpi=120)


def _draw_sides(axes: "Axes", sides: Sides) -> None:
    title = "How often a masked token is told"
    plain_axes(axes, title, "of the masked tokens", "tokens that are seen on a side")
    at = range(len(sides.reaches))
    for color, (side, own) in zip(COLORS, sides.told.items(), strict=False):
        axes.plot(at, [told.accuracy for told in own], color=color, marker="o", label=side)
    axes.axhline(sides.most_frequent, color=MUTED, linestyle="--", label="always the most frequent")
    axes.set_xticks(at, [str(reach) for reach in sides.reaches])
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.set_ylim(bottom=0)
    between = (1, 0.62)  # what both sides tell and what one does
    axes.legend(frameon=False, labelcolor=INK, loc="center right", bbox_to_anchor=between)


def _draw_fillings(axes: "Axes", fillings: Sequence[tuple[str, Filling]]) -> None:
    plain_axes(axes, "What may stand for <mask>", "", "probability")
    ticks: list[str] = []
    at: list[int] = []
    for number, (prompt, own) in enumerate(fillings):
        first = len(at) + 2 * number
        title = shown(prompt)
        axes.text(0, first - 1, title, color=INK, weight="bold", va="center", parse_math=False)
        rows = range(first, first + len(own.tokens))
        axes.barh(rows, own.chances, color=COLORS[0])
        at, ticks = [*at, *rows], [*ticks, *map(shown, own.tokens)]
    axes.set_yticks(at, ticks, parse_math=False)
    axes.set_ylim(len(at) + 2 * len(fillings) - 2, -1.8)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def training_frequencies(sets: Iterable[ShardSet], vocabulary: int) -> Tensor:
    """The share of each token in the training text of each dataset, add-one smoothed.

    Returns:
        float64 (V,); they sum to 1.
    """
    counts = torch.ones(vocabulary, dtype=torch.float64)
    for own in sets:
        tokens = torch.from_numpy(own.read(0, min(own.tokens, MOST_COUNTED)).astype(np.int64))
        counts += tokens.bincount(minlength=vocabulary)
    return counts / counts.sum()
