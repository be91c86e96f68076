"""What a fit found, for readers and for programs."""

from dataclasses import dataclass
from typing import Any

from data.messages import counted
from orchestrator.scaling.fitting import DELTA, Fit
from orchestrator.scaling.frontier import SAME_BUDGET, Best, Frontier, envelope, isoflop
from orchestrator.scaling.intervals import LEVEL, Draws
from orchestrator.scaling.points import Points
from orchestrator.scaling.residuals import Outlier, outliers, spread, trend
from orchestrator.terminal import columns

FARTHEST = 10  # factor from the budgets of the points, up to which a law is taken at its word


@dataclass(frozen=True)
class Report:
    """A fit with all that is worked out from it."""

    fit: Fit
    draws: Draws
    outliers: list[Outlier]
    trend: str | None
    approaches: list[Frontier | str]
    """Without a law: 2 and 1. A text says why there is none."""

    @property
    def alarms(self) -> list[str]:
        """What a reader must not miss."""
        ignored = _ignored(self.fit)
        more = [own for own in (self.trend, ignored) if own is not None]
        return [own.line for own in self.outliers] + more


def _ignored(fit: Fit) -> str | None:
    """What differs between the points although the law knows nothing of it."""
    points, over = fit.points, "".join(fit.form.varies)
    other = {"N": ("tokens", points.tokens), "D": ("parameters", points.parameters)}
    if over not in other:
        return None
    name, values = other[over]
    if values.max() <= SAME_BUDGET * values.min():
        return None
    return (
        f"{name} go from {values.min():.3g} to {values.max():.3g}, and this law knows nothing of "
        "them: fit points of one value, or --form chinchilla"
    )


def report(draws: Draws) -> Report:
    """Look at residuals, and at the best of each budget."""
    fit = draws.fit
    two_variables = {"N", "D"} <= set(fit.form.varies)
    approaches = [isoflop(fit.points), envelope(fit.points)] if two_variables else []
    return Report(fit, draws, outliers(fit), trend(fit), approaches)


def lines(own: Report) -> list[str]:
    """The report as short lines."""
    fit, draws = own.fit, own.draws
    points, k = fit.points, len(fit.form.terms)
    told = [
        *conventions(points),
        f"law         {fit.form.formula}  ({fit.form.source})",
        f"fit         Huber loss of log loss, delta {DELTA:g}; {fit.agreeing} of {fit.starts} "
        f"starts end at the same constants; spread of the runs {spread(fit):.2%} of their loss",
        f"intervals   {LEVEL:.0%}, from {counted(len(draws.theta), 'draw')} of the residuals"
        + (f"; {draws.failed} more did not settle" if draws.failed else "")
        + (f"; {draws.at_edge} ran to an edge" if draws.at_edge else ""),
        "",
    ]
    rows = [("constant", "value", "from", "to")]
    for name, value in fit.constants.items():
        low, high = draws.intervals[name]
        rows.append((name, f"{value:.4g}", f"{low:.4g}", f"{high:.4g}"))
    told += columns(rows)
    if fit.form.exponents[:2] == ("alpha", "beta"):
        a = draws.theta[:, k + 1] / (draws.theta[:, k] + draws.theta[:, k + 1])
        alpha, beta = fit.theta[k], fit.theta[k + 1]
        low, high = draws.interval(a)
        told += [
            "",
            f"best size   N = k C^{beta / (alpha + beta):.3f} ({low:.3f} to {high:.3f}) by the law",
        ]
        told += [f"            {_approach(found)}" for found in own.approaches]
    told += ["", *[f"ALARM       {line}" for line in own.alarms]]
    if not own.alarms:
        told.append("residuals   no run lies off the law, and they show no trend with compute")
    return told


def conventions(points: Points) -> list[str]:
    """What N, C and the points are, without which no constant means anything."""
    low, high = points.flops.min(), points.flops.max()
    return [
        f"points      {len(points)}: N {_range(points.parameters)}, D {_range(points.tokens)}, "
        f"C {low:.3g} to {high:.3g}, loss {points.loss.min():.4g} to {points.loss.max():.4g}",
        f"parameters  N counts {points.count_in_words}",
        f"compute     {points.per_six_nd}",
    ]


def _range(values: Any) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"


def _approach(found: Frontier | str) -> str:
    if isinstance(found, str):
        return found
    return f"N = k C^{found.exponent:.3f} by {found.approach} ({len(found.best)} budgets)"


def beyond(points: Points, flops: float) -> str | None:
    """A warning for a budget far from those of the points. None: it is near enough."""
    over = flops / float(points.flops.max())
    under = float(points.flops.min()) / flops
    if max(over, under) <= FARTHEST:
        return None
    far = f"{over:.3g} x the largest" if over > under else f"1/{under:.3g} of the smallest"
    return (
        f"{flops:.3g} FLOPs is {far} budget of the points; beyond a factor of {FARTHEST} an "
        "interval says nothing of a law that may bend"
    )


def plain(own: Report) -> dict[str, Any]:
    """The report for programs."""
    fit, draws = own.fit, own.draws
    points = fit.points
    return {
        "form": {"formula": fit.form.formula, "source": fit.form.source},
        "convention": {"parameters": points.count, "flops": points.per_six_nd},
        "constants": fit.constants,
        "intervals": {name: list(found) for name, found in draws.intervals.items()},
        "level": LEVEL,
        "draws": {"settled": len(draws.theta), "failed": draws.failed, "at_edge": draws.at_edge},
        "covariance": {
            "of": [*(f"log {name}" for name in fit.form.terms), *fit.form.exponents],
            "values": draws.covariance.tolist(),
        },
        "objective": fit.objective,
        "starts": {"tried": fit.starts, "agreeing": fit.agreeing},
        "spread": spread(fit),
        "points": [
            {
                "name": points.name(i),
                "parameters": float(points.parameters[i]),
                "tokens": float(points.tokens[i]),
                "flops": float(points.flops[i]),
                "loss": float(points.loss[i]),
                "residual": float(fit.residuals[i]),
            }
            for i in range(len(points))
        ],
        "alarms": own.alarms,
        "approaches": [_plain_approach(found) for found in own.approaches],
    }


def _plain_approach(found: Frontier | str) -> dict[str, Any]:
    if isinstance(found, str):
        return {"none": found}

    def row(best: Best) -> dict[str, float]:
        return {"flops": best.flops, "parameters": best.parameters, "loss": best.loss}

    return {
        "approach": found.approach,
        "exponent": found.exponent,
        "log_k": found.log_k,
        "best": [row(best) for best in found.best],
    }
