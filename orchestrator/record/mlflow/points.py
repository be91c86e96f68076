"""The points that MLflow gets of a journal, and which dataset a metric was measured on.

MLflow shows a point as soon as it is written, and can't delete one. So of steps that a later
attempt repeats (see `record/descent.py` for which lines count):
- a line that no longer counts when it is sent is left out
- a point that was sent and stopped counting later stays; the point that counts follows at the same
  step with a later time, by which MLflow takes it for the latest, and the run's tag `descent` says
  up to which step each attempt counts
- a repetition that gave the same value is the same point: it gets the time of the first one, and
  MLflow takes a point with the same metric, time, step and value once. After an exact resume a
  curve has one point per step, as if nothing had happened.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator.record.descent import Descent
from orchestrator.record.lines import METRICS, at_step, read

CHUNK_BYTES = 1 << 20


class Point(NamedTuple):
    """One value of a metric; in the order that MLflow's Metric takes them."""

    key: str
    value: float
    time_ms: int
    step: int


class Points:
    """Turns lines of metrics.jsonl into points; the same lines give the same points again."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read but the line of descent."""
        self.path = folder / METRICS
        self.descent = Descent(folder)
        self._judged = 1  # the attempt up to which `_left_out` is known; the first has none
        self._left_out: dict[tuple[str, int, str], int] = {}
        """(metric, step, value) that does not count -> when it was first measured."""

    def of(self, lines: Iterable[dict[str, Any]]) -> list[Point]:
        """The points of some lines that count."""
        lines = list(lines)
        self.descent.refresh()
        if self.descent.newest > self._judged:
            self._judged = self.descent.newest
            self._left_out = self._find_left_out()
        return [
            Point(key, value, self._left_out.get(_same(key, line, value), line["time_ms"]), step)
            for line in lines
            if self.descent.holds(line["attempt"], step := line["step"])
            for key, value in line["metrics"].items()
        ]

    def first_times(self, step: int) -> dict[tuple[str, str], int]:
        """(metric, value as text) -> when the metric first had this value at this step."""
        times: dict[tuple[str, str], int] = {}
        for line in at_step(self.path, step):
            for key, value in line["metrics"].items():
                times.setdefault((key, repr(value)), line["time_ms"])
        return times

    def _find_left_out(self) -> dict[tuple[str, int, str], int]:
        found: dict[tuple[str, int, str], int] = {}
        offset = 0
        while True:
            lines, offset = read(self.path, offset, CHUNK_BYTES)
            if not lines:
                return found
            for line in lines:
                if not self.descent.holds(line["attempt"], line["step"]):
                    for key, value in line["metrics"].items():
                        found.setdefault(_same(key, line, value), line["time_ms"])


def every_point(lines: Iterable[dict[str, Any]]) -> list[Point]:
    """Every value of every line, as it is."""
    return [
        Point(key, value, line["time_ms"], line["step"])
        for line in lines
        for key, value in line["metrics"].items()
    ]


def _same(key: str, line: dict[str, Any], value: float) -> tuple[str, int, str]:
    return key, line["step"], repr(value)  # as text: NaN is equal to itself


class Datasets:
    """The datasets of a run as MLflow knows them, by name and split."""

    def __init__(self) -> None:
        """None yet."""
        self._known: dict[tuple[str, str], tuple[str, str]] = {}
        """(dataset, split) -> name and digest in MLflow."""

    def add(self, event: dict[str, Any]) -> tuple[str, str]:
        """Take in an event "dataset"; returns its name and digest in MLflow."""
        name, split = str(event["name"]), str(event.get("split", "train"))
        # The split is part of the name: MLflow would merge two splits with one fingerprint.
        known = f"{name}/{split}"[:500], str(event["fingerprint"])[:36]
        self._known[name, split] = known
        return known

    def of(self, metric: str) -> tuple[str, str] | tuple[None, None]:
        """What `SPLIT/NAME/...` or, where the split has one dataset, `SPLIT/...` was measured on.

        A total over several datasets is tied to none: MLflow ties a metric to one at most.
        """
        split, *rest = metric.split("/")
        if len(rest) > 1 and (rest[0], split) in self._known:
            return self._known[rest[0], split]
        of_split = [known for (_, own), known in self._known.items() if own == split]
        return of_split[0] if len(of_split) == 1 else (None, None)
