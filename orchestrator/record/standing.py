"""How far a run has got, by its record alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.record import lines


@dataclass
class Standing:
    """What the lines of a journal add up to; the same whether seen one by one or read later."""

    step: int = 0
    """The last step that is known to be done."""
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    checkpoint: str | None = None
    """The newest checkpoint known to be whole: one that was published, else the one resumed."""
    checkpoint_step: int | None = None

    def see_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Take in a line of metrics."""
        self.step = step
        self.metrics |= values

    def see_event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Take in an event."""
        if kind in ("checkpoint", "resumed"):
            self.checkpoint, self.checkpoint_step = str(facts["path"]), int(facts["step"])
        if kind == "resumed":
            self.step = int(facts["step"])

    @classmethod
    def read(cls, folder: Path) -> "Standing":
        """The standing of a run folder, from its files."""
        metrics, _ = lines.read(folder / lines.METRICS)
        events, _ = lines.read(folder / lines.EVENTS)
        standing = cls()
        for line in sorted([*metrics, *events], key=lambda line: int(line["time_ms"])):
            if "metrics" in line and "event" not in line:
                standing.see_metrics(line["step"], line["metrics"])
            else:
                standing.see_event(line["event"], line)
        return standing
