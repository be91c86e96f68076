"""Reference curves: where runs of a stage with its defaults and the built-in data lie.

They stand in conf/references.yaml, which `tests/benchmarks/preferences.py --keep` writes from runs
that differ in their seeds.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

import conf
from data.files import write_text_atomic
from orchestrator.record.comparing.differences import Band, band_of, curves
from orchestrator.record.runs import Run

OURS = Path(conf.__file__).parent / "references.yaml"
HEAD = "# Where runs with the defaults of a stage lie: see `orchestrate compare RUN`.\n"
DIGITS = 4


def reference(stage: str, file: Path | None = None) -> Band:
    """The band of a stage's own recipe.

    Raises:
        ValueError: none is kept.
    """
    known = _table(file or OURS)
    if stage not in known:
        raise ValueError(
            f"there is no reference curve of stage={stage}, only of {', '.join(known) or 'none'}; "
            "give two runs or more"
        )
    return Band(**known[stage])


def keep(stage: str, metric: str, runs: Sequence[Run], file: Path | None = None) -> Band:
    """Make runs of a stage that differ in their seeds its reference, in place of any before.

    Raises:
        ValueError: they have not measured the metric at two steps in common.
    """
    file = file or OURS
    found = band_of([curves(run)[metric] for run in runs], metric)
    plain = asdict(found)
    for side in ("low", "high"):
        plain[side] = [round(float(value), DIGITS) for value in plain[side]]
    text = yaml.safe_dump({**_table(file), stage: plain}, sort_keys=True, default_flow_style=None)
    write_text_atomic(file, HEAD + text)
    return found


def _table(file: Path) -> dict[str, dict[str, Any]]:
    found = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    return dict(found or {})
