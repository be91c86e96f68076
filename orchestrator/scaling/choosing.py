"""The model for a budget: N and D by the law of Hoffmann et al. 2022, and what other sizes cost.

With S = C / (6 k) = N D, where k is what the points' FLOPs are of 6 N D, the loss is least at
N = G S^(beta / (alpha + beta)), G = (alpha A / (beta B))^(1 / (alpha + beta)); their equation 4.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from models import cost
from models.configs import GPTConfig
from orchestrator.scaling.dial import dial
from orchestrator.scaling.forms import CHINCHILLA
from orchestrator.scaling.intervals import Draws
from orchestrator.scaling.points import FLOPS_PER_WEIGHT, Array, Points

SMALLER = (1.0, 0.7, 0.5, 0.35, 0.25, 0.125)  # of the best size, that are looked at
SERVED = 2  # operations per parameter and token in inference
ASPECTS = (32, 128)  # width / layers; between, the loss hardly depends on it (Kaplan et al. 2020)
ASPECT = 64
MOST_LAYERS, STEP = 200, 32  # of widths
MOST_WIDTH = 32768
ASPECT_WEIGHT = 0.05  # what twice the usual aspect is worth in an error of size


@dataclass(frozen=True)
class Interval:
    """A number, and where it lies 9 times in 10."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Choice:
    """What a budget buys."""

    flops: float
    parameters: Interval
    tokens: Interval
    per_parameter: Interval
    """Tokens per parameter."""
    loss: Interval
    """Of a new run, its noise included."""


@dataclass(frozen=True)
class Smaller:
    """A smaller model that is trained for longer until it is as good."""

    parameters: float
    tokens: float | None
    """None: no amount of data is enough."""
    flops: float | None
    pays_after: float | None
    """Tokens served from which on it is cheaper in all. None: it is the best size itself, or can't
    be as good."""


def choose(draws: Draws, flops: float) -> Choice:
    """N, D and loss for a budget in FLOPs, by a fit of CHINCHILLA."""
    assert draws.fit.form is CHINCHILLA
    product = flops / (FLOPS_PER_WEIGHT * draws.fit.points.flops_factor)
    drawn = draws.theta[(draws.theta[:, 3:] > 0).all(axis=1)]
    best, sizes = best_size(draws.fit.theta, product), best_size(drawn, product)

    def interval(value: Array, values: Array) -> Interval:
        return Interval(float(value), *draws.interval(values))

    _, low, high = draws.predict(points_of(best, product / best))
    middle = np.exp(CHINCHILLA.log_loss(draws.fit.theta, points_of(best, product / best)))
    return Choice(
        flops,
        interval(best, sizes),
        interval(product / best, product / sizes),
        interval(product / best**2, product / sizes**2),
        Interval(float(middle[0]), float(low[0]), float(high[0])),
    )


def best_size(theta: Array, product: float) -> Array:
    """N of least loss where N D is a product; theta is (..., 5)."""
    _, a, b, alpha, beta = np.moveaxis(theta, -1, 0)
    log_n = (np.log(alpha) + a - np.log(beta) - b + beta * np.log(product)) / (alpha + beta)
    return np.asarray(np.exp(log_n))


def points_of(parameters: float | Array, tokens: float | Array) -> Points:
    """One run of which the loss is asked."""
    return Points(np.array([float(parameters)]), np.array([float(tokens)]), np.ones(1))


def smaller(draws: Draws, choice: Choice) -> Iterator[Smaller]:
    """What it costs to make smaller models as good, which are cheaper to serve.

    Sardana et al. 2024: training takes 6 k N D, each token served 2 N.
    """
    constants, k = draws.fit.constants, draws.fit.points.flops_factor
    target = choice.loss.value
    for share in SMALLER:
        n = share * choice.parameters.value
        left = target - constants["E"] - constants["A"] / n ** constants["alpha"]
        if left <= 0:
            yield Smaller(n, None, None, None)
            continue
        tokens = (constants["B"] / left) ** (1 / constants["beta"])
        flops = FLOPS_PER_WEIGHT * k * n * tokens
        saved = SERVED * (choice.parameters.value - n)
        yield Smaller(n, tokens, flops, (flops - choice.flops) / saved if saved else None)


def model_of(parameters: float, vocab_size: int, positions: int) -> GPTConfig:
    """The Llama-style model of about so many parameters, all counted.

    Raises:
        ValueError: its table of tokens alone is larger.
    """
    plain = _plain(vocab_size, positions)
    best: tuple[float, GPTConfig] | None = None
    for layers in range(1, MOST_LAYERS):
        for width in _widths(layers, parameters):
            heads = max(1, width // 64)
            if width % (2 * heads):
                continue
            tried = replace(plain, layers=layers, width=width, heads=heads)
            error = abs(math.log(cost.parameters(tried) / parameters))
            error += ASPECT_WEIGHT * abs(math.log2(width / layers / ASPECT))
            if best is None or error < best[0]:
                best = error, tried
    if best is None or cost.parameters(best[1]) > 2 * parameters:
        raise ValueError(
            f"no model of {parameters:.3g} parameters has a vocabulary of {vocab_size:,}; try a "
            "smaller --vocab-size or a larger --flops"
        )
    return best[1]


def dialled(parameters: float, vocab_size: int, positions: int) -> GPTConfig:
    """The model of `experiment=dial` that is nearest to so many parameters."""
    plain = _plain(vocab_size, positions)
    family = (
        replace(plain, layers=own, width=int(dial("width", own)), heads=int(dial("heads", own)))
        for own in range(1, MOST_LAYERS)
    )
    return min(family, key=lambda own: abs(math.log(cost.parameters(own) / parameters)))


def _plain(vocab_size: int, positions: int) -> GPTConfig:
    return GPTConfig(
        norm="rmsnorm",
        positions="rotary",
        activation="swiglu",
        bias=False,
        max_positions=positions,
        vocab_size=vocab_size,
    )


def _widths(layers: int, parameters: float) -> range:
    """Widths that are worth a look: 12 layers width^2 is about N, and less with a table beside."""
    low, high = (aspect * layers for aspect in ASPECTS)
    most = min(high, MOST_WIDTH, 1.5 * math.sqrt(parameters / (12 * layers)) + STEP)
    return range(max(STEP, low // STEP * STEP), int(most) + 1, STEP)
