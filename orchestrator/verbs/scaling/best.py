"""`orchestrate scaling best`: the best value of a setting by size and data, and its law."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict

from orchestrator.scaling.frontier import LEAST_SIZES
from orchestrator.scaling.points import Points
from orchestrator.scaling.tuning import Best, Law, best_values, law
from orchestrator.terminal import columns, say


def carry_out(options: argparse.Namespace, points: Points, had: Mapping[str, float]) -> int:
    """Print it.

    Args:
        options: of the command line.
        points: the runs.
        had: the value of the setting by the name of the run.

    Raises:
        ValueError: no run had a number there, or all had the same.
    """
    chosen = points.take([n for n in range(len(points)) if points.name(n) in had])
    values = [had[chosen.name(n)] for n in range(len(chosen))]
    if len(set(values)) < 2:
        raise ValueError(
            f"--of={options.of} has {'one value' if values else 'no number above 0'} in these "
            f"runs; sweep it, as `orchestrate sweep rates` does"
        )
    found = best_values(chosen, values)
    through = law(found)
    if options.json:
        told = {"best": [asdict(own) for own in found], "law": through and asdict(through)}
        print(json.dumps({"of": options.of, **told}, indent=1))
        return 0
    rows = [("parameters", "tokens", "tried", "best", "loss", "x 2 off costs")]
    for own in found:
        tried = f"{own.tried[0]:.3g} to {own.tried[-1]:.3g} ({len(own.tried)})"
        rows.append((f"{own.parameters:,.0f}", f"{own.tokens:,.0f}", tried, *_told(own)))
    for line in columns(rows):
        say(line)
    say(f"law         {_words(options.of, through)}", hang=12)
    return 0


def _told(own: Best) -> tuple[str, str, str]:
    """The best value, its loss, and what twice the value costs; as far as they are known."""
    if own.value is not None:
        return f"{own.value:.3g}", f"{own.loss:.4g}", f"{own.twice:.2%}"
    if len(own.tried) < LEAST_SIZES:
        return "too few", "", ""
    ends = {own.tried[0]: " or less", own.tried[-1]: " or more"}
    return f"{own.nearest:.3g}{ends.get(own.nearest, '; no parabola')}", "", ""


def _words(setting: str, found: Law | None) -> str:
    if found is None:
        return "none: it takes the best values of two sizes or amounts of data"
    powers = ((name, own) for name, own in (("N", found.by_size), ("D", found.by_tokens)) if own)
    return f"{setting} = {found.k:.4g}" + "".join(f" {name}^{own:.3f}" for name, own in powers)
