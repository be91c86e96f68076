"""Is a job's data like that of an earlier job? Compared shard by shard before training starts."""

from collections.abc import Mapping
from pathlib import Path

from data import Prepared, ShardSet
from data.ask.compare import compare
from data.config import SINGLE
from data.drift import GateReport
from orchestrator.config import JobConfig
from orchestrator.record.lines import EVENTS, read
from orchestrator.stages.language.preparing import dataset_names


def check_drift(config: JobConfig, prepared: Prepared) -> dict[str, GateReport]:
    """A report for each dataset; empty without a reference.

    One that the reference lacks has nothing to be compared with, and its report says so.

    Raises:
        ValueError: the reference is no data, or the policy is stop and the data has changed.
    """
    reference = config.data.drift.reference
    if reference is None:
        return {}
    before = train_sets(Path(reference))
    after = prepared.train_sets
    shared = {name: (before[name], own) for name, own in after.items() if name in before}
    if len(before) == 1 == len(after):  # whatever they are called
        shared = {next(iter(after)): (next(iter(before.values())), next(iter(after.values())))}
    if not shared:
        raise ValueError(
            f"data.drift.reference={reference} has the datasets {', '.join(before)} and this job "
            f"{', '.join(after)}: none in common; name another reference, or null"
        )
    reports: dict[str, GateReport] = {}
    names = dataset_names(config.data)
    for name, (a, b) in shared.items():
        reports |= compare(names[name], a, b)
    for name in after.keys() - shared:
        note = f"not compared: {reference} has no dataset {name}, only {', '.join(before)}"
        reports[names[name]] = GateReport((), {}, alpha=0.0, notes=(note,))
    if config.data.drift.policy == "stop" and not all(own.passed for own in reports.values()):
        found = "; ".join(
            f"{name}: {finding.words}" for name, own in reports.items() for finding in own.findings
        )
        raise ValueError(
            f"the data is not like that of data.drift.reference={reference}: {found}; "
            f"`orchestrate data diff {reference} FOLDER` shows more; data.drift.policy=warn trains "
            "on it all the same"
        )
    return reports


def train_sets(path: Path) -> Mapping[str, ShardSet]:
    """The train splits that a user means by a run folder, a prepared dataset or a shard set.

    Raises:
        ValueError: there is nothing of the kind.
    """
    if (path / "manifest.json").is_file():
        return {SINGLE: ShardSet.open(path)}
    if (path / "train" / "manifest.json").is_file():
        return {SINGLE: ShardSet.open(path / "train")}
    folders: dict[str, str] = {}
    if (path / EVENTS).is_file():
        events, _ = read(path / EVENTS, max_bytes=1 << 30)
        for event in events:
            if event["event"] == "dataset" and event["split"] == "train" and "folder" in event:
                folders[event["name"]] = event["folder"]
    if not folders:
        raise ValueError(
            f"{path} is no run folder whose data is known, and no shard set: give one that has "
            f"{EVENTS} or manifest.json in it"
        )
    return {name: ShardSet.open(Path(folder)) for name, folder in folders.items()}
