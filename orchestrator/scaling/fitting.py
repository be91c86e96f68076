"""The constants of a law from points: Huber loss on log loss, many starts, L-BFGS.

Hoffmann et al. 2022, section D.2, with what Besiroglu et al. 2024 found missing in it: losses are
summed, not averaged, and counted in units of delta squared, so that the optimizer's tolerances do
not end it early. Beyond both, each start is the least squares of the law at given exponents, and
the constants are turned by the curvature, without which L-BFGS crawls along valleys of A and alpha.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from orchestrator.scaling.forms import Form
from orchestrator.scaling.points import Array, Points

DELTA = 1e-3  # of the Huber loss; Hoffmann et al. 2022
STARTS = 32  # the best of those that a form offers
ROUNDS = 8  # of L-BFGS, each turned by the curvature where the last one ended
ITERATIONS = 300  # of a round
SETTLED = 1e-7  # objective that a round no longer gains, relative, or in units of delta squared
AGREE = 1e-4  # objective by which starts ended in the same place, relative or in its units
STEP = 1e-30  # of complex-step differentiation
RIDGE = 1e-10  # of the curvature, relative: directions that the points say nothing of
LOWEST, HIGHEST = 0.01, 3.0  # exponents: below, a term is a constant; above, it is a cliff
GONE = 1e-3  # largest share of a term in the loss, from which on down it is not there


class FitFailed(ValueError):
    """The points do not determine the constants."""


@dataclass(frozen=True)
class Fit:
    """A law with its constants."""

    form: Form
    points: Points
    theta: Array
    """Constants (p,), see Form."""
    objective: float
    """Sum of Huber losses in units of delta squared."""
    starts: int
    agreeing: int
    """Of the starts, those that ended at this objective."""

    @property
    def constants(self) -> dict[str, float]:
        """By name, as they stand in the formula."""
        return self.form.constants(self.theta)

    @property
    def residuals(self) -> Array:
        """Log loss measured less predicted (n,): positive where a run did worse."""
        return np.asarray(np.log(self.points.loss) - self.form.log_loss(self.theta, self.points))

    @property
    def edges(self) -> list[str]:
        """What ran to the edge of what the law can mean, and why; empty: nothing."""
        return edges(self.form, self.theta, self.points)


def check_enough(form: Form, points: Points) -> None:
    """Raise ValueError for points that can't determine the constants, whatever their losses."""
    p = len(form.names)
    values: dict[str, Array | None] = {
        "N": points.parameters,
        "D": points.tokens,
        "C": points.flops,
        "unique_tokens": points.unique_tokens,
    }
    called = {"N": "parameters", "D": "tokens", "C": "flops", "unique_tokens": "unique_tokens"}
    others = {"N": "--form data", "D": "--form size"}
    for name in form.varies:
        own = values[name]
        if own is None:
            raise ValueError(f"{form.formula} needs a column {called[name]}, which is not there")
        if len(set(own)) < 2:
            instead = f", or fit {others[name]}" if name in others and len(form.varies) > 1 else ""
            raise ValueError(
                f"all {len(points)} points have {called[name]}={own[0]:.6g}, so nothing tells how "
                f"the loss depends on it; give points of several{instead}"
            )
    if len(points) <= p:
        raise ValueError(
            f"{len(points)} points for the {p} constants {', '.join(form.names)} of {form.formula}:"
            f" give at least {p + 1}, better {3 * p}"
        )


def fit(form: Form, points: Points) -> Fit:
    """The law that lies nearest to the points.

    Raises:
        ValueError: there are too few points, or all are of one size.
        FitFailed: no start converged, or a constant ran to the edge.
    """
    check_enough(form, points)
    log_loss, ones = np.log(points.loss), np.ones(len(points))
    first = form.first(points)
    rough = [_huber(form.log_loss(theta, points).real - log_loss, ones)[0] for theta in first]
    chosen = first[np.argsort(rough)[:STARTS]]
    ended = [descend(form, points, log_loss, ones, start) for start in chosen]
    done = [own for own in ended if own is not None]
    if not done:
        raise FitFailed(
            f"none of {len(chosen)} starts of {form.formula} converged within "
            f"{ROUNDS * ITERATIONS} iterations: the points say too little of its constants; give "
            "points over a wider range of N and D, or a form with fewer constants"
        )
    theta, least = min(done, key=lambda own: own[1])
    agreeing = sum(own[1] <= least * (1 + AGREE) + AGREE for own in done)
    found = Fit(form, points, theta, least, len(chosen), agreeing)
    if found.edges:
        raise FitFailed(
            f"{form.formula} on {len(points)} points: {'; '.join(found.edges)}. Give points over a "
            "wider range, or another --form"
        )
    return found


def descend(
    form: Form, points: Points, log_loss: Array, weights: Array, start: Array
) -> tuple[Array, float] | None:
    """Constants and objective where L-BFGS ends from a start. None: it did not settle.

    Args:
        form: the law.
        points: N, D and so on of each run.
        log_loss: what it is to come near to (n,).
        weights: how often each run counts (n,).
        start: constants (p,).
    """
    from scipy.optimize import minimize

    theta, least = np.asarray(start, float), np.inf
    for _ in range(ROUNDS):
        turned = _curvature(form, points, log_loss, weights, theta)
        if turned is None:
            return None
        objective = _objective(form, points, log_loss, weights, theta, turned)
        options = {"maxiter": ITERATIONS, "ftol": 1e-12, "gtol": 1e-4, "maxcor": 2 * len(theta)}
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            z = np.zeros(len(theta))
            ended = minimize(objective, z, jac=True, method="L-BFGS-B", options=options)
        if not np.isfinite(ended.fun) or not np.isfinite(ended.x).all():
            return None
        theta = theta + turned @ ended.x
        if least < np.inf and least - ended.fun <= SETTLED * max(least, 1.0):
            return theta, float(ended.fun)
        least = float(ended.fun)
    return None


def edges(form: Form, theta: Array, points: Points) -> list[str]:
    """What of these constants ran to the edge, in words."""
    found, k = [], len(form.terms)
    for name, value in zip(form.exponents, theta[k:], strict=True):
        if name.startswith("R*"):
            if value <= LOWEST:
                found.append(f"{name} runs to 0: what is repeated is worth nothing")
        elif value < LOWEST:
            found.append(
                f"{name} runs to {value:.3g}: its term is the same at all points, so the loss "
                "shows no trend with its variable"
            )
        elif value > HIGHEST:
            found.append(
                f"{name} runs to {value:.3g}: its term matters at the smallest points alone"
            )
    if len(form.terms) > 1:
        for name, share in form.shares(theta, points).items():
            if share.max() < GONE:
                found.append(
                    f"{name} runs to 0: its term is below {GONE:.1%} of the loss at every point"
                )
    return found


@contextmanager
def one_thread() -> Iterator[None]:
    """Let linear algebra have one thread: more cost much on matrices of a hundred numbers."""
    import scipy.optimize  # noqa: F401 - brings a pool of threads of its own
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        yield


def derivatives(form: Form, theta: Array, points: Points) -> tuple[Array, Array]:
    """Predicted log loss (n,), and how it changes with each constant (p, n)."""
    moved = form.log_loss(theta + 1j * STEP * np.eye(len(theta)), points)
    return moved[0].real, moved.imag / STEP


def _huber(residuals: Array, weights: Array) -> tuple[float, Array]:
    """The sum of Huber losses in units of delta squared, and its derivative by each residual."""
    r = residuals / DELTA
    slope = np.clip(r, -1, 1)
    return float(weights @ (slope * (r - slope / 2))), weights * slope / DELTA


def _objective(
    form: Form, points: Points, log_loss: Array, weights: Array, theta: Array, turned: Array
) -> Callable[[Array], tuple[float, Array]]:
    """The objective of z, where the constants are theta + turned z."""

    def objective(z: Array) -> tuple[float, Array]:
        predicted, slopes = derivatives(form, theta + turned @ z, points)
        value, by_residual = _huber(predicted - log_loss, weights)
        return value, turned.T @ (slopes @ by_residual)

    return objective


def _curvature(
    form: Form, points: Points, log_loss: Array, weights: Array, theta: Array
) -> Array | None:
    """A matrix (p, p) that turns the constants so that the objective is about equally steep."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        predicted, slopes = derivatives(form, theta, points)
        weight = weights / np.maximum(1, np.abs(predicted - log_loss) / DELTA)
        hessian = (slopes * weight) @ slopes.T / DELTA**2
    if not np.isfinite(hessian).all():
        return None
    scale = np.sqrt(np.maximum(np.diag(hessian), 1e-30))
    unit = hessian / np.outer(scale, scale) + RIDGE * np.eye(len(theta))
    try:
        return np.asarray(np.linalg.inv(np.linalg.cholesky(unit)).T / scale[:, None])
    except np.linalg.LinAlgError:
        return None
