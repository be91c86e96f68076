"""trials.jsonl of a sweep's folder: what became of each trial, written before it happens.

A row is one of these events, with `trial`, its number, and `time_ms`:

proposed    point, words, attributes; seed_of for a repeat of another trial with another seed; in
            population based training member, and origin and passed of one that goes on from another
started     folder of the run that is about to be made, from the folder of the sweep on
report      step and value of the objective
stopped     why it is ended early, which is about to be done: pruned, or paused, to go on later
passed      step up to which a paused trial was compared with its population, so that it goes on
ended       status, values, excess over each constraint, steps, message

Whoever reads the rows in their order knows the sweep, whatever was killed. A trial that has started
and not ended is one that goes on, or was interrupted: its run folder tells how far it got.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.record.lines import LineFile, read
from orchestrator.record.sweeps import TABLE
from orchestrator.verbs.sweep.space import Point

DONE, PRUNED, FAILED, REFUSED = "done", "pruned", "failed", "refused"
PAUSED = "paused"


@dataclass
class Trial:
    """One trial, as far as the table knows it."""

    number: int
    point: Point
    words: list[str]
    """What is typed for it."""
    attributes: dict[str, Any]
    """What the sampler wants to be told of it again."""
    seed_of: int | None = None
    """The trial that it repeats with another seed. None: it is no repeat."""
    member: int | None = None
    """Of a population, the place that it fills. None: there is no population."""
    origin: int | None = None
    """The trial that it goes on from. None: it begins at step 0."""
    begun_at: int = 0
    """The step of that trial from which it goes on."""
    passed: int = 0
    """The last step at which it was compared with its population."""
    folders: list[Path] = field(default_factory=list)
    """Its runs, oldest first; one that was interrupted goes on in another."""
    reports: dict[int, float] = field(default_factory=dict)
    """The objective by optimizer steps."""
    stopped: str | None = None
    status: str | None = None
    """None: it has not ended."""
    values: list[float] = field(default_factory=list)
    """Of each objective, if it is done, and the last ones if it was pruned."""
    excess: list[float] = field(default_factory=list)
    """How far it is beyond each constraint."""
    steps: int = 0
    message: str | None = None
    """Why it failed."""
    seconds: float = 0.0
    """From each start to the end, or to the last row before it was interrupted."""

    @property
    def allowed(self) -> bool:
        """Whether it keeps all constraints."""
        return all(own <= 0 for own in self.excess)


class Table:
    """The rows of a sweep and its trials; the only writer."""

    def __init__(self, folder: Path) -> None:
        """Open the table of a sweep's folder, and read what is there.

        Raises:
            ValueError: another process carries this sweep out.
            JournalError: a row can't be read.
        """
        self.folder = folder
        self.trials: list[Trial] = []
        self.rows: list[dict[str, Any]] = []
        """Those that were there when it was opened."""
        self._begun: dict[int, int] = {}  # when a trial that goes on was started, milliseconds
        self._file = LineFile(folder / TABLE)
        try:
            self._file.claim()
        except BlockingIOError:
            self._file.close()
            raise ValueError(
                f"{folder} is the sweep of another process, which still carries it out; end that "
                "one first"
            ) from None
        self.rows, _ = read(folder / TABLE)
        for row in self.rows:
            self._take(row)
        self._begun.clear()  # those are interrupted

    def write(self, event: str, trial: int, **facts: Any) -> Trial:
        """Put a row on the disk, and what it says into its trial, which is returned."""
        row = {"time_ms": time.time_ns() // 1_000_000, "event": event, "trial": trial, **facts}
        self._file.append(row)
        if event in ("proposed", "started"):
            self._file.sync()
        return self._take(row)

    def close(self) -> None:
        """Let others carry the sweep on."""
        self._file.close()

    def __enter__(self) -> "Table":
        """Return the table itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close it."""
        self.close()

    def _take(self, row: Mapping[str, Any]) -> Trial:
        event, number = row["event"], row["trial"]
        if event == "proposed":
            new = Trial(number, row["point"], row["words"], row["attributes"])
            new.seed_of, new.member = row.get("seed_of"), row.get("member")
            new.origin = row.get("origin")
            new.begun_at = new.passed = row.get("passed", 0)
            self.trials.append(new)
            return new
        trial: Trial = self.trials[number]
        if number in self._begun:
            trial.seconds += (row["time_ms"] - self._begun[number]) / 1000
            self._begun[number] = row["time_ms"]
        if event == "started":
            trial.folders.append((self.folder / row["folder"]).resolve())
            self._begun[number] = row["time_ms"]
            trial.stopped = None
        elif event == "passed":
            trial.passed = row["step"]
        elif event == "report":
            trial.reports[row["step"]] = float(row["value"])
        elif event == "stopped":
            trial.stopped = row["why"]
            if trial.stopped == PAUSED:
                self._begun.pop(number, None)
        elif event == "ended":
            self._begun.pop(number, None)
            for name in ("status", "steps", "message"):
                setattr(trial, name, row[name])
            trial.values = [float(value) for value in row["values"]]
            trial.excess = [float(value) for value in row["excess"]]
        return trial
