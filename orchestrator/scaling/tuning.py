"""The best value of a setting by size and data: laws of learning rates and batch sizes.

Of each size and amount of data a parabola of loss over the logarithm of the setting, as iso-FLOP
parabolas are over sizes; and through their lowest points value = k N^x D^y, by least squares of
logarithms (Bi et al. 2024, DeepSeek LLM, section 3.1, has such laws over compute).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.scaling.frontier import LEAST_SIZES, SAME_BUDGET, lowest
from orchestrator.scaling.points import Array, Points

AROUND = 2  # values to each side of the best that the parabola goes by: farther off, it is none


@dataclass(frozen=True)
class Best:
    """The value that suits one size and amount of data."""

    parameters: float
    tokens: float
    tried: tuple[float, ...]
    nearest: float
    """Of those tried the one whose run did best."""
    value: float | None
    """None: the best is at the edge of what was tried, or too little was."""
    loss: float | None
    """At the value, by the parabola."""
    twice: float | None
    """What twice or half the value costs, as a part of the loss."""


@dataclass(frozen=True)
class Law:
    """value = k N^x D^y; an exponent is 0 where its variable did not vary."""

    k: float
    by_size: float
    by_tokens: float


def best_values(points: Points, values: Sequence[float]) -> list[Best]:
    """Of each size and amount of data of the points, the best of a setting that each run had."""
    had = np.asarray(values, float)
    found = []
    for size in sorted(set(points.parameters)):
        for tokens in _amounts(points.tokens[points.parameters == size]):
            near = np.abs(np.log(points.tokens / tokens)) <= np.log(SAME_BUDGET)
            chosen = near & (points.parameters == size)
            found.append(_best(size, tokens, had[chosen], points.loss[chosen]))
    return found


def law(found: Sequence[Best]) -> Law | None:
    """The power law through the best values. None: too few are known for its constants."""
    known = [(own.parameters, own.tokens, own.value) for own in found if own.value is not None]
    if len(known) < 2:
        return None
    logs = np.log(np.array(known, float))
    varies = [np.ptp(logs[:, column]) > np.log(SAME_BUDGET) for column in (0, 1)]
    columns = [np.ones(len(logs)), *(logs[:, n] for n in (0, 1) if varies[n])]
    if len(columns) == 1 or len(columns) > len(logs):
        return None
    solved, _, rank, _ = np.linalg.lstsq(np.stack(columns, axis=1), logs[:, 2], rcond=None)
    if rank < len(columns):
        return None
    exponents = iter(solved[1:])
    by_size, by_tokens = (float(next(exponents)) if own else 0.0 for own in varies)
    return Law(float(np.exp(solved[0])), by_size, by_tokens)


def _amounts(tokens: Array) -> list[float]:
    """Amounts of data that are not about the same."""
    found: list[float] = []
    for own in sorted(tokens):
        if not found or own > SAME_BUDGET * found[-1]:
            found.append(float(own))
    return found


def _best(size: float, tokens: float, values: Array, loss: Array) -> Best:
    tried = tuple(sorted(set(map(float, values))))
    nearest = float(values[loss.argmin()])
    best = tried.index(nearest)
    low, high = tried[max(0, best - AROUND)], tried[min(len(tried) - 1, best + AROUND)]
    near = (values >= low) & (values <= high)
    enough = len(set(values[near])) >= LEAST_SIZES
    at = lowest(np.log(values[near]), loss[near]) if enough else None
    if at is None:
        return Best(size, tokens, tried, nearest, None, None, None)
    x, least, curvature = at
    cost = curvature * np.log(2) ** 2 / least
    return Best(size, tokens, tried, nearest, float(np.exp(x)), least, float(cost))
