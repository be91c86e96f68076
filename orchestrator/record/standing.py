"""How far a run has got, by its record alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.record.descent import Descent
from orchestrator.record.lines import EVENTS, METRICS, read

CHUNK_BYTES = 1 << 20


@dataclass
class Standing:
    """What the lines of a journal add up to; of several attempts, those that count (`descent.py`).

    A journal keeps the standing of its run, so the driver has it at hand. Anyone else, also when
    the driver is dead, reads the same from the files.
    """

    attempt: int = 0
    """The newest attempt that wrote anything; 0 is none."""
    step: int = 0
    """The last step that is known to be done."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each metric; see `result`."""
    checkpoint: str | None = None
    """The newest checkpoint known to be whole: one that was published, else the one resumed; a
    path from the run folder on."""
    checkpoint_step: int | None = None
    best: dict[str, Any] | None = None
    """The best evaluation whose checkpoint is kept: metric, value and step; metrics, all that it
    measured; checkpoint, a path as that above."""
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    """What the model has to beat, by metric: the name of each baseline, and its value."""
    status: str | None = None
    """How the run ended. None: it goes on, or its driver died before it could say."""
    first_ms: int | None = None
    """Time of the first line, milliseconds since 1970."""
    last_ms: int | None = None
    """Time of the last line."""
    working: int = 0
    """The newest attempt that restored a checkpoint or measured anything; 0 is none."""

    @property
    def result(self) -> dict[str, float]:
        """Metrics of the weights that the run gives: the best that are kept, else the last ones."""
        return self.metrics if self.best is None else self.metrics | self.best["metrics"]

    @property
    def seconds(self) -> float:
        """From the first line to the last."""
        if self.first_ms is None or self.last_ms is None:
            return 0.0
        return (self.last_ms - self.first_ms) / 1000

    @property
    def tokens(self) -> int:
        """Trained on since step 0; 0 if the stage does not count in tokens."""
        return int(self.metrics.get("train/tokens", 0))

    @classmethod
    def read(cls, folder: Path) -> "Standing":
        """The standing of a run folder, from its files."""
        standing, descent = cls(), Descent(folder)
        offset = 0
        while True:
            lines, offset = read(folder / METRICS, offset, CHUNK_BYTES)
            if not lines:
                break
            for line in lines:
                standing._take(line, counts=descent.holds(line["attempt"], line["step"]))
        events, _ = read(folder / EVENTS)
        for event in events:
            attempt, step = event.get("attempt", 1), event.get("step", 0)
            standing._take(event, counts=descent.holds(attempt, step))
        return standing

    def is_undone_by(self, line: Mapping[str, Any]) -> bool:
        """Whether some of what was taken in no longer counts: another attempt begins to work."""
        return 0 < self.working < line["attempt"] and _works(line)

    def take(self, line: Mapping[str, Any]) -> None:
        """Take in the next line of the journal; one that undoes others needs `read`."""
        self._take(line, counts=True)

    def _take(self, line: Mapping[str, Any], *, counts: bool) -> None:
        attempt, time_ms, kind = line.get("attempt", 1), line["time_ms"], line.get("event")
        self.attempt = max(self.attempt, attempt)
        self.first_ms = min(time_ms, time_ms if self.first_ms is None else self.first_ms)
        self.last_ms = max(time_ms, self.last_ms or 0)
        if kind in ("started", "finished"):
            self.status = line.get("status")
        if not counts:
            return
        if _works(line):
            self.working = max(self.working, attempt)
            self.step = max(self.step, int(line["step"]))
        if kind is None:
            self.metrics |= line["metrics"]
        elif kind in ("checkpoint", "resumed"):
            self.checkpoint, self.checkpoint_step = str(line["path"]), int(line["step"])
            self.step = max(self.step, int(line["step"]))
        elif kind == "best":
            facts = {name: line[name] for name in ("metric", "value", "step")}
            self.best = facts | {"metrics": line.get("metrics", {}), "checkpoint": line["path"]}
        elif kind == "baselines":
            self.baselines = {
                f"validation/{measured}": dict(values)
                for measured, values in line.items()
                if isinstance(values, Mapping)
            }


def _works(line: Mapping[str, Any]) -> bool:
    """Whether a line shows that its attempt has begun to work: a metric, or a restored step."""
    return line.get("event") in (None, "resumed")
