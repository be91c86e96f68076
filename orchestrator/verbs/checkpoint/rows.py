"""What is shown of checkpoints, wherever they are."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.messages import counted, size
from orchestrator.record.checkpoints import Checkpoint, CheckpointError
from orchestrator.record.runs import HEADLINES, Run
from orchestrator.terminal import columns, say

COLUMNS = ("checkpoint", "size", "age", "metric", "attempt", "state")


@dataclass(frozen=True)
class Row:
    """One checkpoint of a list."""

    name: str
    """Of its folder."""
    state: str
    """`whole`, or what is wrong."""
    age: str = "-"
    found: Checkpoint | None = None
    """None: it can't be read."""


def measured_by(run: Run) -> dict[str, str]:
    """Of each checkpoint that the run's journal tells of: what was measured, `best` at the best."""
    best = [Path(str(e.get("path"))).name for e in run.events if e.get("event") == "best"][-1:]
    found = {}
    for event in run.events:
        if event.get("event") == "checkpoint":
            name, metrics = Path(str(event.get("path"))).name, event.get("metrics", {})
            shown = next((n for w in HEADLINES for n in metrics if n.endswith(f"/{w}")), None)
            metric = "-" if shown is None else f"{shown} {metrics[shown]:.4g}"
            found[name] = metric + (", best" if name in best else "")
    return found


def show(measured: Mapping[str, str], rows: Sequence[Row]) -> None:
    """A line for each checkpoint, under a head."""
    cells = [COLUMNS]
    for row in rows:
        metric, _, best = measured.get(row.name, "-").partition(", ")
        attempt, bytes_ = "-", "-"
        if row.found is not None:
            attempt, bytes_ = str(row.found.attempt or "-"), size(row.found.bytes)
        state = f"{row.state}, {best}" if best and row.found is not None else row.state
        cells.append((row.name, bytes_, row.age, metric, attempt, state))
    for line in columns(cells):
        say(line)


def verify_each(place: str, each: Mapping[str, Callable[[], Checkpoint]], one: bool) -> int:
    """Verify checkpoints, newest first, by their places; returns the exit code.

    Of all of a run, when `one` is not meant, it says which one would be gone on from.
    """
    good: list[str] = []
    for where, verify in each.items():
        name, begun = where.rsplit("/", 1)[-1], time.monotonic()
        try:
            found = verify()
        except CheckpointError as error:
            say(f"bad   {name}  {error}", hang=6)
            continue
        good.append(where)
        files, took = counted(len(found.files), "file"), time.monotonic() - begun
        say(f"good  {name}  {size(found.bytes)} in {files}, all hashes agree, {took:.1f} s")
    if len(good) < len(each) and not one:
        used = good[0] if good else "none: resume refuses, and begins nothing anew"
        say(f"resume={place} takes {used}")
    return 0 if len(good) == len(each) else 1
