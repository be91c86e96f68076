"""Which lines of a journal count: those on the line of descent of the run's newest attempt.

An attempt goes on from a checkpoint. What the attempt that wrote this checkpoint did up to its
step, what the attempt before that did up to the step it went on from, and so on, made the weights;
whatever an attempt did after the step that another went on from led nowhere. Such lines stay in
the journal, but are no part of a curve, a state or a result. This is the only place that decides.
"""

from pathlib import Path
from typing import Any

from orchestrator.record.lines import EVENTS, METRICS, last_line, read


class Descent:
    """The line of descent as far as the journal in `folder` goes; `refresh` follows it.

    Refresh after reading the lines to be judged: a line's attempt is then known, too.
    """

    def __init__(self, folder: Path) -> None:
        """Read what is there; a folder without a journal has an empty line."""
        self.folder = folder
        self._offset = 0
        self._writers: dict[int, int] = {}
        """Step of a checkpoint -> the attempt that wrote it last."""
        self._origins: dict[int, tuple[int | None, int]] = {}
        """Attempt -> (the attempt whose checkpoint it went on from, step of that checkpoint)."""
        self._ends: dict[int, float] = {}
        """Attempt on the line -> its last step that counts."""
        self.refresh()

    def refresh(self) -> None:
        """Take in what has been written since."""
        last = last_line(self.folder / METRICS)
        events, self._offset = read(self.folder / EVENTS, self._offset)
        for event in events:
            self._take(event)
        measured = int(last["attempt"]) if last else 0
        self._ends = self._walk(max(measured, *self._origins, 0))

    def holds(self, attempt: int, step: int) -> bool:
        """Whether what `attempt` did at `step` counts."""
        return step <= self._ends.get(attempt, -1)

    @property
    def newest(self) -> int:
        """The newest attempt that restored a checkpoint or measured anything; 0 is none."""
        return max(self._ends, default=0)

    def __str__(self) -> str:
        """For a reader, e.g. `attempt 1 to step 100, attempt 3`."""
        parts = []
        for attempt, end in sorted(self._ends.items()):
            parts.append(f"attempt {attempt}" + (f" to step {end}" if end < float("inf") else ""))
        return ", ".join(parts)

    def _take(self, event: dict[str, Any]) -> None:
        attempt = int(event.get("attempt", 1))
        if event["event"] == "checkpoint":
            self._writers[int(event["step"])] = attempt
        elif event["event"] == "resumed":
            step = int(event["step"])
            self._origins[attempt] = (self._writers.get(step) or self._passed(attempt, step), step)

    def _passed(self, attempt: int, step: int) -> int | None:
        """The attempt before `attempt` that passed `step`: it wrote a checkpoint without a record.

        A driver killed between the two leaves one. None: the checkpoint is of another run.
        """
        for earlier in range(attempt - 1, 0, -1):
            if self._origins.get(earlier, (None, 0))[1] < step:
                return earlier
        return None

    def _walk(self, newest: int) -> dict[int, float]:
        """From the newest attempt back to the first; an attempt without origin began afresh."""
        ends: dict[int, float] = {}
        attempt, end = newest, float("inf")
        while attempt and attempt not in ends:
            ends[attempt] = end
            before, step = self._origins.get(attempt, (None, 0))
            attempt, end = before or 0, min(end, step)
        return ends
