"""Which runs do not lie on the law, and what that may mean."""

from dataclasses import dataclass

import numpy as np

from orchestrator.scaling.fitting import Fit
from orchestrator.scaling.intervals import leverages
from orchestrator.scaling.points import Array

LEVEL = 0.01  # chance of an alarm where there is nothing, over all points together
MAD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
LEAST_SPREAD = 1e-6  # of log loss: what is nearer than that is rounding


@dataclass(frozen=True)
class Outlier:
    """A run that does not lie on the law."""

    name: str
    residual: float
    """Log loss measured less predicted."""
    spreads: float
    """The same in robust standard deviations."""

    @property
    def line(self) -> str:
        """What it may mean, for a reader."""
        side = "better" if self.residual < 0 else "worse"
        means = (
            "CONTAMINATION? it may have seen the validation text, or have another one"
            if self.residual < 0
            else "trained badly? (learning rate, warm-up, a spike), or on other data"
        )
        return (
            f"{self.name}: loss {abs(np.expm1(self.residual)):.2%} {side} than the law, "
            f"{abs(self.spreads):.1f} spreads; {means}"
        )


def spread(fit: Fit) -> float:
    """Robust standard deviation of the residuals, with the constants that were fitted counted."""
    r = fit.residuals
    free = len(r) / max(1, len(r) - len(fit.theta))
    return float(max(MAD * np.median(np.abs(r)) * np.sqrt(free), LEAST_SPREAD))


def outliers(fit: Fit) -> list[Outlier]:
    """Runs that lie farther off than the farthest of so many would once in 100 times, worst first.

    Student's t for the spread is of few points; Bonferroni over the points.
    """
    from scipy.stats import t

    r, n = fit.residuals, len(fit.points)
    z: Array = r / (spread(fit) * np.sqrt(1 - leverages(fit)))
    limit = t.ppf(1 - LEVEL / (2 * n), max(1, n - len(fit.theta) - 1))
    far = [i for i in np.argsort(-np.abs(z)) if abs(z[i]) > limit]
    return [Outlier(fit.points.name(i), float(r[i]), float(z[i])) for i in far]


def trend(fit: Fit) -> str | None:
    """Whether the residuals still depend on compute, so that the law bends otherwise than the runs.

    Spearman's rank correlation between residual and C, at the same level.
    """
    from scipy.stats import spearmanr

    if len(set(fit.points.flops)) < 4:
        return None
    found = spearmanr(fit.residuals, fit.points.flops)
    if not found.pvalue < LEVEL:
        return None
    side = "better" if found.statistic < 0 else "worse"
    return (
        f"the larger the budget, the {side} the runs are than the law (rank correlation "
        f"{found.statistic:+.2f}, p {found.pvalue:.1g}): do not extrapolate it"
    )
