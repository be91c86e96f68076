"""Scaling laws as formulas.

A law is a sum of terms, each known by its logarithm, so that the loss is a log-sum-exp: the floor
E, and for each variable X a term A / X^a, of which log A and a are the constants. Constants are
arrays (..., p), and predictions (..., n) over points; all work on complex numbers, whose imaginary
part carries a derivative (complex-step differentiation, exact to rounding).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from orchestrator.scaling.points import Array, Points

EXPONENTS = (0.03, 0.06, 0.1, 0.16, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
"""From which fits start, each with each: those published lie between 0.05 and 0.6."""
LEAST_SHARE = 1e-3  # of a term in the loss at the start, where the best would be none at all
VARIABLES: dict[str, Callable[[Points], Array]] = {
    "N": lambda points: points.parameters,
    "D": lambda points: points.tokens,
    "C": lambda points: points.flops,
}


@dataclass(frozen=True)
class Form:
    """A law with constants theta: logarithms of E and of the coefficients, then exponents."""

    formula: str
    source: str
    terms: tuple[str, ...]
    """Names of the coefficients: E, A, B ..."""
    exponents: tuple[str, ...]
    """Names of what follows them."""
    varies: tuple[str, ...]
    """Variables of which the points must have several values."""
    log_terms: Callable[[Any, Points], list[Any]]
    """The logarithm of each term, in the order of `terms`."""
    first: Callable[[Points], Array]
    """Constants (m, p) from which fits start."""
    power: Callable[[Any], Any] = lambda theta: 1.0
    """What the sum is raised to."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the constants, in the order of theta."""
        return (*self.terms, *self.exponents)

    def log_loss(self, theta: Any, points: Points) -> Any:
        """Predicted log loss (..., n)."""
        parts = np.stack(np.broadcast_arrays(*self.log_terms(theta, points)))
        largest = parts.real.max(axis=0)
        return self.power(theta) * (largest + np.log(np.exp(parts - largest).sum(axis=0)))

    def shares(self, theta: Array, points: Points) -> dict[str, Array]:
        """Of each term, its part of the sum at each point."""
        parts = np.stack(np.broadcast_arrays(*self.log_terms(theta, points)))
        return dict(zip(self.terms, np.exp(parts - np.logaddexp.reduce(parts)), strict=True))

    def constants(self, theta: Array) -> dict[str, float]:
        """By name, coefficients as they stand in the formula."""
        values = np.concatenate([np.exp(theta[: len(self.terms)]), theta[len(self.terms) :]])
        return dict(zip(self.names, map(float, values), strict=True))


def _column(theta: Any, number: int) -> Any:
    """One constant, to be combined with points."""
    return theta[..., number, None]


def _powers(formula: str, source: str, *, over: str, floor: bool) -> Form:
    """E + A / N^a + ... over some of N, D and C, with or without E."""
    coefficients = {"N": "A", "D": "B", "C": "K"}
    exponents = {"N": "alpha", "D": "beta", "C": "gamma"}
    shift, k = int(floor), len(over)

    def log_terms(theta: Any, points: Points) -> list[Any]:
        logs = [np.log(VARIABLES[name](points)) for name in over]
        own = [
            _column(theta, shift + i) - _column(theta, shift + k + i) * log
            for i, log in enumerate(logs)
        ]
        return [_column(theta, 0), *own] if floor else own

    def first(points: Points) -> Array:
        starts = []
        for tried in product(EXPONENTS, repeat=k):
            logs = [
                -exponent * np.log(VARIABLES[name](points))
                for name, exponent in zip(over, tried, strict=True)
            ]
            columns = [np.zeros(len(points)), *logs] if floor else logs
            starts.append([*_coefficients(columns, np.log(points.loss)), *tried])
        return np.array(starts)

    return Form(
        formula,
        source,
        (*(("E",) if floor else ()), *(coefficients[name] for name in over)),
        tuple(exponents[name] for name in over),
        tuple(over),
        log_terms,
        first,
    )


def _coefficients(log_columns: list[Array], log_target: Array) -> list[float]:
    """Logarithms of the coefficients with which the columns add up to the target, roughly.

    For given exponents the law is linear in them: least squares of relative errors; one that would
    be none or less gets a small share.
    """
    columns = np.exp(np.stack(log_columns, axis=1) - log_target[:, None])
    scale = columns.mean(axis=0)
    found, *_ = np.linalg.lstsq(columns / scale, np.ones(len(columns)), rcond=None)
    return list(np.log(np.maximum(found, LEAST_SHARE) / scale))


def _kaplan_terms(theta: Any, points: Points) -> list[Any]:
    nc, dc, alpha, beta = (_column(theta, number) for number in range(4))
    return [alpha / beta * (nc - np.log(points.parameters)), dc - np.log(points.tokens)]


def _kaplan_first(points: Points) -> Array:
    starts = []
    for alpha, beta in product(EXPONENTS[:6], repeat=2):
        columns = [-alpha / beta * np.log(points.parameters), -np.log(points.tokens)]
        n, d = _coefficients(columns, np.log(points.loss) / beta)
        starts.append([n * beta / alpha, d, alpha, beta])
    return np.array(starts)


CHINCHILLA = _powers(
    "L = E + A / N^alpha + B / D^beta",
    "Hoffmann et al. 2022, approach 3",
    over="ND",
    floor=True,
)


def best_log_parameters(theta: Any, log_tokens: Any) -> Any:
    """log N that is best for D tokens under the law of Hoffmann et al.

    Along C = 6 N D the loss is least where alpha A / N^alpha = beta B / D^beta.
    """
    _, a, b, alpha, beta = (_column(theta, number) for number in range(5))
    return (np.log(alpha) + a - np.log(beta) - b + beta * log_tokens) / alpha


def _repeated_terms(theta: Any, points: Points) -> list[Any]:
    assert points.unique_tokens is not None
    e, a, b, alpha, beta, rd, rn = (_column(theta, number) for number in range(7))
    unique = np.log(points.unique_tokens)
    tokens = unique + _worth(np.log(points.tokens) - unique, rd)
    fitting = best_log_parameters(theta, unique)
    log_n = np.log(points.parameters)
    beyond = log_n > fitting.real
    parameters = np.where(beyond, fitting + _worth(np.where(beyond, log_n - fitting, 0), rn), log_n)
    return [e, a - alpha * parameters, b - beta * tokens]


def _worth(log_times: Any, star: Any) -> Any:
    """log of (1 + R* (1 - exp(-R / R*))), of R repetitions after the first time."""
    repeats = np.exp(log_times) - 1
    return np.log(1 + star * (1 - np.exp(-repeats / star)))


def _repeated_first(points: Points) -> Array:
    halves = np.array([(rd, rn) for rd in (1.0, 4.0, 15.0, 50.0) for rn in (1.0, 5.0, 20.0)])
    base = CHINCHILLA.first(points)
    return np.concatenate([np.repeat(base, len(halves), 0), np.tile(halves, (len(base), 1))], 1)


FORMS = {
    "chinchilla": CHINCHILLA,
    "kaplan": Form(
        "L = ((Nc / N)^(alpha_N / alpha_D) + Dc / D)^alpha_D",
        "Kaplan et al. 2020, equation 1.5",
        ("Nc", "Dc"),
        ("alpha_N", "alpha_D"),
        ("N", "D"),
        _kaplan_terms,
        _kaplan_first,
        lambda theta: _column(theta, 3),
    ),
    "repeated": Form(
        "L = E + A / N'^alpha + B / D'^beta; X' = U (1 + R* (1 - exp(-R / R*))), R repeats of U",
        "Muennighoff et al. 2023, equations 5 and 6",
        ("E", "A", "B"),
        ("alpha", "beta", "R*_D", "R*_N"),
        ("N", "D", "unique_tokens"),
        _repeated_terms,
        _repeated_first,
    ),
    "size": _powers("L = E + A / N^alpha", "one amount of data", over="N", floor=True),
    "data": _powers("L = E + B / D^beta", "one size", over="D", floor=True),
    "compute": _powers("L = E + K / C^gamma", "the best of each budget", over="C", floor=True),
    "kaplan_size": _powers("L = A / N^alpha", "Kaplan et al. 2020, 1.1", over="N", floor=False),
    "kaplan_data": _powers("L = B / D^beta", "Kaplan et al. 2020, 1.2", over="D", floor=False),
    "kaplan_compute": _powers("L = K / C^gamma", "Kaplan et al. 2020, 1.3", over="C", floor=False),
}
