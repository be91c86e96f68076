"""`orchestrate data diff A B`: what differs between two data sets, or between two tables."""

import json
from pathlib import Path

from data.drift import GateReport
from data.sources.table_files import TABLES, is_table
from orchestrator.terminal import say


def diff(a: str, b: str, as_json: bool) -> int:
    """Print the differences; returns 0 if B looks like A, else 1.

    Raises:
        ValueError: one of them is missing or of another kind than the other.
    """
    first, second = Path(a), Path(b)
    for path in (first, second):
        if not path.exists():
            raise ValueError(f"{path} does not exist; give a run folder, a shard set or a table")
    tables = [path.is_file() and is_table(path) for path in (first, second)]
    if all(tables):
        facts, reports = _tables(first, second)
    elif any(tables):
        other = b if tables[0] else a
        raise ValueError(
            f"{other} is no table ({', '.join(TABLES)}), as the other is: give two tables, or two "
            "run folders or shard sets"
        )
    else:
        facts, reports = _sets(first, second)
    if as_json:
        found = {name: report.to_dict() for name, report in reports.items()}
        print(json.dumps({"facts": facts, "reports": found}))
    else:
        for line in facts:
            say(line)
        for name, report in reports.items():
            for line in report.lines():
                say(f"{name}: {line}" if len(reports) > 1 else line)
    return 0 if all(report.passed for report in reports.values()) else 1


def _tables(a: Path, b: Path) -> tuple[list[str], dict[str, GateReport]]:
    from data.drift import gate_tables
    from data.drift.table_sketches import sketch_table
    from data.sources.table_files import table_parts

    sketches = [[sketch_table(part) for part in table_parts(path)] for path in (a, b)]
    rows = [sum(sketch.rows for sketch in own) for own in sketches]
    return [f"{a}: {rows[0]:,} rows", f"{b}: {rows[1]:,} rows"], {b.name: gate_tables(*sketches)}


def _sets(a: Path, b: Path) -> tuple[list[str], dict[str, GateReport]]:
    from data.ask.compare import compare
    from orchestrator.stages.language.drift import train_sets

    before, after = dict(train_sets(a)), dict(train_sets(b))
    if len(before) == 1 == len(after):
        before = {next(iter(after)): next(iter(before.values()))}
    facts: list[str] = []
    reports: dict[str, GateReport] = {}
    for name in [*before, *(n for n in after if n not in before)]:
        if name not in before or name not in after:
            facts.append(f"{name}: only in {a if name in before else b}")
            continue
        old, new = before[name], after[name]
        theirs, ours = old.all_digests(), new.all_digests()
        if old.fingerprint == new.fingerprint:
            facts.append(f"{name}: the same, {old.documents:,} documents, {old.tokens:,} tokens")
            continue
        facts.append(
            f"{name}: {len(theirs & ours):,} documents in both, {len(theirs - ours):,} only in "
            f"{a}, {len(ours - theirs):,} only in {b}; {old.tokens:,} and {new.tokens:,} tokens"
        )
        if old.manifest.tokenizer != new.manifest.tokenizer:
            facts.append(f"{name}: other tokenizers, so tokens can't be compared one by one")
        reports |= compare(name, old, new)
    return facts, reports
