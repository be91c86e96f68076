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
from orchestrator.record.runs import Run

OURS = Path(conf.__file__).parent / "references.yaml"
HEAD = "# Where runs of a stage's own recipe lie: see `orchestrate compare RUN`.\n"
DIGITS = 4
RECIPE = "recipe"


class Reference(NamedTuple):
    """Where runs of a recipe lie."""

    recipe: str
    """What is typed for one."""
    band: Band


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
    return Reference(found.pop(RECIPE), Band(**found))


def keep(
    stage: str, metric: str, runs: Sequence[Run], recipe: str, file: Path | None = None
) -> Reference:
    """Make runs of a stage that differ in their seeds its reference, in place of any before.

    Raises:
        ValueError: they have not measured the metric at two steps in common.
    """
    file = file or OURS
    found = band_of([curves(run)[metric] for run in runs], metric)
    plain = asdict(found)
    for side in ("low", "high"):
        plain[side] = [round(float(value), DIGITS) for value in plain[side]]
    table = dict(sorted({**_table(file), stage: {RECIPE: recipe, **plain}}.items()))
    text = yaml.safe_dump(table, sort_keys=False, default_flow_style=None)
    write_text_atomic(file, HEAD + text)
    return Reference(recipe, found)


def _table(file: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    return dict(found or {})
