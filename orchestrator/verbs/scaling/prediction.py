"""`orchestrate scaling predict`: the loss of a run by a law of others, before it runs or after."""

import argparse
import json
import math
from dataclasses import asdict, dataclass

from orchestrator.scaling import report
from orchestrator.scaling.intervals import Draws
from orchestrator.scaling.points import Points
from orchestrator.terminal import say


@dataclass(frozen=True)
class Prediction:
    """The loss of a run, by runs that it is not one of."""

    parameters: float
    tokens: float
    loss: float
    low: float
    high: float
    """The loss of a new run lies between the two 9 times in 10."""
    measured: float | None = None
    """What came out. None: it has not run."""

    @property
    def error(self) -> float | None:
        """Predicted / measured - 1."""
        return None if self.measured is None else self.loss / self.measured - 1

    @property
    def inside(self) -> bool | None:
        """Whether what came out lies in the interval."""
        return None if self.measured is None else self.low <= self.measured <= self.high


def asked(options: argparse.Namespace) -> Points | None:
    """The run that --size and --tokens describe. None: --run names one.

    Raises:
        ValueError: neither or both are there, or a number is no count.
    """
    described = [options.size, options.tokens]
    if options.run is not None:
        if any(value is not None for value in described):
            raise ValueError("--run tells size and tokens itself; leave --size and --tokens out")
        return None
    for name, value in zip(("--size", "--tokens"), described, strict=True):
        if value is None:
            raise ValueError(f"{name} is missing: give --size and --tokens, or --run RUN")
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be a number above 0, such as 1e7")
    from orchestrator.scaling.choosing import points_of

    return points_of(*described)


def carry_out(options: argparse.Namespace, draws: Draws, run: Points) -> int:
    """Print what the law says of one run, and if it has run, how good that was."""
    middle, low, high = draws.predict(run)
    measured = float(run.loss[0]) if options.run is not None else None
    size, tokens = float(run.parameters[0]), float(run.tokens[0])
    told, least, most = float(middle[0]), float(low[0]), float(high[0])
    own = Prediction(size, tokens, told, least, most, measured)
    far = report.beyond(draws.fit.points, float(run.flops[0]))
    if options.json:
        found = {**asdict(own), "error": own.error, "inside": own.inside, "extrapolates": far}
        print(json.dumps(found, indent=1))
        return 0
    for line in report.conventions(draws.fit.points):
        say(line, hang=12)
    largest = own.parameters / float(draws.fit.points.parameters.max())
    say(
        f"run         {own.parameters:,.0f} parameters, {largest:.2g} x the largest of the points, "
        f"on {own.tokens:,.0f} tokens",
        hang=12,
    )
    say(f"predicted   {own.loss:.4g} ({own.low:.4g} to {own.high:.4g}, 9 times in 10)")
    if own.error is not None:
        where = "inside" if own.inside else "OUTSIDE"
        say(f"measured    {own.measured:.4g}: {own.error:+.2%}, {where} of the interval")
    if far:
        say(f"WARNING     {far}", hang=12)
    return 0
