"""How sure the constants of a law are: the bootstrap of its residuals.

Sizes and amounts of data are chosen, not drawn, so what is drawn anew is the noise: predictions
plus residuals drawn with replacement. Each is divided by 1 - leverage, as it would be to a fit that
had not seen its run (the jackknife's, HC3 of MacKinnon and White 1985), and the draws are smoothed:
as a fit by Huber's loss goes through about p of the points, the residuals have too many zeros, by
which it would seem surer than it is (Hall, DiCiccio and Romano 1989, on quantiles). Drawing whole
points instead leaves out the only one of a size now and then, on designs of a score of runs.
`tests/benchmarks/scaling.py` prints how often the intervals hold the truth.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from orchestrator.scaling.fitting import Fit, derivatives, descend, edges
from orchestrator.scaling.points import Array, Points

DRAWS, LEVEL = 500, 0.9
LEAST_DRAWS = 20
SMOOTH = 1.06  # width of the normal kernel x n^0.2 / deviation (Silverman 1986, equation 3.28)
MOST_LEVERAGE = 0.95  # above, one point alone decides a constant


@dataclass(frozen=True)
class Draws:
    """A law fitted to many sets of losses as they might have been."""

    fit: Fit
    theta: Array
    """Constants of each (m, p)."""
    noise: Array
    """Residuals of log loss as they would be without the fit's pull (n,)."""
    failed: int
    """Draws whose fit did not settle; they are not among theta."""
    at_edge: int
    """Of theta, those with a constant at the edge."""

    def interval(self, values: Array, level: float = LEVEL) -> tuple[float, float]:
        """Where the middle part of values (m,) lies."""
        low, high = _percentiles(values, level)
        return float(low), float(high)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """Of each constant, as it stands in the formula."""
        rows = [self.fit.form.constants(theta) for theta in self.theta]
        return {name: self.interval(np.array([row[name] for row in rows])) for name in rows[0]}

    @property
    def covariance(self) -> Array:
        """Of the constants (p, p), coefficients by their natural logarithms."""
        return np.atleast_2d(np.cov(self.theta.T))

    def predict(self, points: Points) -> tuple[Array, Array, Array]:
        """Loss at points: the law's, and where the loss of a new run lies 9 times in 10.

        The interval has both the doubt in the constants and the scatter of runs around the law.
        """
        middle = np.exp(self.fit.form.log_loss(self.fit.theta, points))
        rng = np.random.default_rng(0)
        logs = self.fit.form.log_loss(self.theta, points)
        logs = logs + rng.choice(self.noise, size=logs.shape)
        low, high = _percentiles(np.exp(logs), LEVEL)
        return middle, low, high


def _percentiles(values: Array, level: float) -> Array:
    """Where the middle part of values (m, ...) lies; right in the mean also of a few draws."""
    ends = [50 * (1 - level), 50 * (1 + level)]
    return np.asarray(np.percentile(values, ends, axis=0, method="weibull"))


def leverages(fit: Fit) -> Array:
    """How much each point pulls its own prediction (n,), from 0 to 1."""
    _, slopes = derivatives(fit.form, fit.theta, fit.points)
    scale = np.linalg.norm(slopes, axis=1, keepdims=True)
    q, _ = np.linalg.qr((slopes / np.maximum(scale, 1e-300)).T)
    return np.asarray(np.minimum((q**2).sum(axis=1), MOST_LEVERAGE))


def check_draws(draws: int) -> None:
    """Raise ValueError for fewer draws than an interval takes."""
    if draws < LEAST_DRAWS:
        raise ValueError(
            f"--draws={draws} must be at least {LEAST_DRAWS} for an interval; {DRAWS} is usual"
        )


def bootstrap(
    fit: Fit, draws: int = DRAWS, seed: int = 0, each: Callable[[int], None] = lambda done: None
) -> Draws:
    """Fit the law anew to losses drawn around it; `each` is called with how many are done.

    Raises:
        ValueError: there are fewer draws than an interval takes.
    """
    check_draws(draws)
    predicted = fit.form.log_loss(fit.theta, fit.points)
    noise = fit.residuals / (1 - leverages(fit))
    noise = noise - noise.mean()
    width = SMOOTH * len(noise) ** -0.2
    rng, ones = np.random.default_rng(seed), np.ones(len(fit.points))
    found, failed = [], 0
    for number in range(draws):
        kernel = width * noise.std() * rng.normal(size=len(noise))
        drawn = (rng.choice(noise, len(noise)) + kernel) / np.sqrt(1 + width**2)
        ended = descend(fit.form, fit.points, predicted + drawn, ones, fit.theta)
        if ended is None:
            failed += 1
        else:
            found.append(ended[0])
        each(number + 1)
    if len(found) < LEAST_DRAWS:
        raise ValueError(
            f"{failed} of {draws} draws did not settle, so there is no interval; give more points"
        )
    at_edge = sum(bool(edges(fit.form, theta, fit.points)) for theta in found)
    return Draws(fit, np.array(found), noise, failed, at_edge)
