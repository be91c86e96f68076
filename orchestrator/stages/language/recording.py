"""What a run keeps of its data: which it was, what was left out of it, whether it has drifted."""

import json
from collections.abc import Mapping
from pathlib import Path

from data import Prepared
from data.config import SINGLE, SourceConfig
from data.drift import GateReport
from data.files import write_text_atomic
from data.filters.report import Report
from orchestrator.config import JobConfig
from orchestrator.record.journal import Journal
from orchestrator.stages.language.preparing import dataset_names

FOLDER = "data"  # in the run folder, and among the artifacts
TOKENIZER = "tokenizer.json"
TYPES = {"string": "string", "boolean": "boolean", "integer": "long", "number": "double"}


def record_data(
    journal: Journal,
    folder: Path,
    config: JobConfig,
    prepared: Prepared,
    drift: Mapping[str, GateReport],
) -> None:
    """Write the reports to the run folder, and events that lead from the run to its data."""
    (folder / FOLDER).mkdir()
    names = dataset_names(config.data)
    for name, source in config.data.sources().items():
        dataset = prepared.datasets[name]
        for split, shards in (("train", dataset.train), ("validation", dataset.validation)):
            journal.event(
                "dataset",
                name=names[name],
                columns=_columns(source),
                source=_source(source, split),
                split=split,
                mixture=name != SINGLE,
                folder=str(shards.folder),
                fingerprint=shards.fingerprint,
                documents=shards.documents,
                bytes=shards.manifest.bytes,
                tokens=shards.tokens,
            )
        _write(journal, folder, f"{names[name]}-filters.md", dataset.report.markdown())
        if dataset.passed_over:
            lines = [f"{path}: {reason}\n" for path, reason in dataset.passed_over]
            _write(journal, folder, f"{names[name]}-files-not-read.txt", "".join(lines))
    table = _table({names[key]: own.report for key, own in prepared.datasets.items()})
    _write(journal, folder, "filters.json", json.dumps(table, indent=1), table=True)
    for name, report in drift.items():
        _write(journal, folder, f"{name}-drift.md", report.markdown())
        found = [finding.words for finding in report.findings]
        journal.event("drift", dataset=name, passed=report.passed, findings=found)
    prepared.tokenizer.save(folder / FOLDER / TOKENIZER)  # the record leads nowhere else
    journal.event(
        "tokenizer",
        path=f"{FOLDER}/{TOKENIZER}",
        kind=config.tokenizer.kind,
        fingerprint=prepared.tokenizer.fingerprint,
        vocab_size=prepared.tokenizer.vocab_size,
        vocab_size_asked=config.tokenizer.vocab_size,
    )
    journal.event("baselines", bits_per_byte=prepared.baselines)


def _source(source: SourceConfig, split: str) -> str:
    """Where the documents of a split come from."""
    own = source.validation_source() if split == "validation" else None
    return (own or source).path or source.source


def _columns(source: SourceConfig) -> dict[str, str]:
    """The columns that are read, with their types as MLflow calls them."""
    contract = {name: TYPES.get(kind, "object") for name, kind in source.contract.columns.items()}
    return (
        contract
        | {
            "text": {source.text_column: "string"},
            "conversations": {"messages": "object"},
            "preferences": {"chosen": "object", "rejected": "object"},
        }[source.records]
    )


def _write(journal: Journal, folder: Path, name: str, text: str, *, table: bool = False) -> None:
    write_text_atomic(folder / FOLDER / name, text)
    journal.event("artifact", path=f"{FOLDER}/{name}", artifact_path=FOLDER, table=table)


def _table(reports: Mapping[str, Report]) -> dict[str, list[object]]:
    """What every filter did, as a table that MLflow shows: columns and rows."""
    columns = ["dataset", "filter", "seen", "dropped", "bytes dropped", "why"]
    rows = [
        [
            name,
            count.label,
            count.seen,
            count.dropped,
            count.bytes_dropped,
            ", ".join(f"{reason}: {times}" for reason, times in count.reasons.most_common()),
        ]
        for name, report in reports.items()
        for count in report.filters
    ]
    return {"columns": [*columns], "data": [*rows]}
