"""Is one published dataset like another? What `data.drift` and `orchestrate data diff` ask."""

import json
from pathlib import Path
from typing import Any

from data.drift import GateReport, gate, gate_tables
from data.drift.document_drift import Duplicates
from data.drift.sketches import Sketch
from data.drift.table_sketches import TableSketch
from data.filters.filters import DUPLICATES
from data.filters.report import Report
from data.shards import ShardSet


def compare(name: str, before: ShardSet, after: ShardSet) -> dict[str, GateReport]:
    """Reports on the documents of a dataset, and on the columns of its contract if it has one.

    Args:
        name: of the dataset, under which its reports come back.
        before: a split of the reference, as published.
        after: the same of the candidate.

    Raises:
        DataError: one of them was prepared by a release whose sketches can't be compared.
    """
    sketches = [[Sketch.from_json(e.sketch) for e in side.entries] for side in (before, after)]
    about = [_about(side.folder.parent / "prepared.json") for side in (before, after)]
    duplicates = None
    if about[0] and about[1]:
        duplicates = _duplicates(about[0]), _duplicates(about[1])
    reports = {name: gate(sketches[0], sketches[1], duplicates=duplicates)}
    tables = [TableSketch.from_dict(own["table"]) for own in about if own.get("table")]
    if len(tables) == len(about):
        reports[f"{name} columns"] = gate_tables(tables[:1], tables[1:])
    return reports


def _about(path: Path) -> dict[str, Any]:
    """What was written down when the set was published; empty for shards of other origin."""
    content: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return content


def _duplicates(about: dict[str, Any]) -> Duplicates:
    """Records left out as copies of others, and those that reached the first of these filters."""
    counts = [own for own in Report.from_dict(about["report"]).filters if own.name in DUPLICATES]
    return sum(own.dropped for own in counts), counts[0].seen
