"""Reference curves: where runs of a stage's own recipe lie.

They stand in conf/references.yaml, which `tests/benchmarks/preferences.py --keep` writes from runs
that differ in their seeds.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import conf
from data.files import write_text_atomic
from orchestrator.record.comparing.differences import Band, band_of, curves
from orchestrator.record.figures import Points
from orchestrator.record.runs import Run

OURS = Path(conf.__file__).parent / "references.yaml"
HEAD = "# Where runs of a stage's own recipe lie: see `orchestrate compare RUN`.\n"
DIGITS = 4
RECIPE, BANDS = "recipe", "bands"


class Reference(NamedTuple):
    """Where runs of a recipe lie."""

    recipe: str
    """What is typed for one."""
    bands: list[Band]
    """Of each metric that tells whether a run goes as others did."""


def reference(stage: str, file: Path | None = None) -> Reference:
    """That of a stage.

    Raises:
        ValueError: none is kept.
    """
    known = _table(file or OURS)
    if stage not in known:
        raise ValueError(
            f"there is no reference curve of stage={stage}, only of {', '.join(known) or 'none'}; "
            "give two runs or more"
        )
    found = known[stage]
    return Reference(found[RECIPE], [Band(**own) for own in found[BANDS]])


def keep(
    stage: str, metrics: Sequence[str], runs: Sequence[Run], recipe: str, file: Path | None = None
) -> Reference:
    """Make runs of a stage that differ in their seeds its reference, in place of any before.

    Args:
        stage: of the runs.
        metrics: whose bands are kept. All are above 0 and differ by factors.
        runs: at least two.
        recipe: what is typed for one.
        file: where references are kept. None: among the configs.

    Raises:
        ValueError: they have not measured a metric at two steps in common.
    """
    file = file or OURS
    series = [curves(run) for run in runs]
    bands = [band_of([_begun(own[n]) for own in series], n, by_factors=True) for n in metrics]
    plain = [asdict(band) for band in bands]
    for band in plain:
        for side in ("low", "high"):
            band[side] = [float(f"{value:.{DIGITS}g}") for value in band[side]]
    table = dict(sorted({**_table(file), stage: {RECIPE: recipe, BANDS: plain}}.items()))
    write_text_atomic(file, HEAD + yaml.safe_dump(table, sort_keys=False, default_flow_style=None))
    return Reference(recipe, bands)


def _begun(points: Points) -> Points:
    """A curve without what was measured before the first step, which says nothing of the run."""
    kept = [(step, value) for step, value in zip(*points, strict=True) if step > 0]
    return [step for step, _ in kept], [value for _, value in kept]


def _table(file: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    return dict(found or {})
