"""The journal of a run: metrics.jsonl and events.jsonl, files of JSON lines in the run folder.

The driver of a job is the only writer. Every line says when (`time_ms`) and in which attempt. Times
never decrease in a file, also if the clock of a host is set back, or a later attempt starts with a
clock that is behind: MLflow takes the later of two points at a step for the valid one.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from orchestrator.record.clock import Clock
from orchestrator.record.fencing import Fence
from orchestrator.record.lines import EVENTS, METRICS, LineFile, is_claimed
from orchestrator.record.redaction import Redactor
from orchestrator.record.standing import Standing

PATHS = ("path", "folder")  # facts of events that somebody opens later


def goes_on(folder: Path, *, unknown: bool = False) -> bool:
    """Whether a process writes the journal of a run; `unknown` where there is no way to know."""
    return is_claimed(folder / EVENTS, unknown=unknown)


class Journal:
    """Appends metrics and events to a run folder.

    `attempt` may be raised when a job is retried, and `fence` is then that attempt's.
    """

    def __init__(
        self,
        folder: Path,
        attempt: int = 1,
        redactor: Redactor | None = None,
        fence: Fence | None = None,
    ) -> None:
        """Open both files in `folder`; the torn last line of a killed writer is cut off.

        What `redactor` knows for a secret is hidden in events, but for paths, which are opened.
        With a `fence`, every line is refused with Fenced once another attempt has taken the run.

        Raises:
            ValueError: another process writes this journal.
        """
        self.attempt, self.fence = attempt, fence
        self._redactor = redactor or Redactor({})
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = LineFile(folder / METRICS)
        self._events = LineFile(folder / EVENTS)
        try:
            self._events.claim()
        except BlockingIOError:
            self.close()
            raise ValueError(
                f"{folder} is the run of another process, which still writes to it"
            ) from None
        self.standing = Standing.read(folder)
        """How far the run has got, after every line; it is another object in another attempt."""
        last_ms = self.standing.last_ms or 0
        self._last_ms = {self._metrics: last_ms, self._events: last_ms}
        self._clock = Clock(last_ms)

    def metrics(self, step: int, values: Mapping[str, float], time_ms: int | None = None) -> None:
        """Record what was measured at optimizer step `step`; `time_ms` is when, None is now."""
        numbers = {key: float(value) for key, value in values.items()}
        self._append(self._metrics, {"step": int(step), "metrics": numbers}, time_ms)

    def event(self, kind: str, /, **facts: Any) -> None:
        """Record that something happened, e.g. `event("checkpoint", step=100, path=...)`."""
        hide = self._redactor.settings
        shown = {name: v if name in PATHS else hide(v, name) for name, v in facts.items()}
        self._append(self._events, {"event": kind, **shown}, None)

    def now_ms(self) -> int:
        """The time that a line would get now, milliseconds since 1970."""
        return self._clock.now_ms()

    def check(self) -> None:
        """Raise Fenced if another attempt, of another process, has taken the run."""
        if self.fence is not None:
            self.fence.check()

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        self._metrics.sync()
        self._events.sync()

    def close(self) -> None:
        """Sync and close both files; a second call does nothing."""
        with ExitStack() as both:  # the second is closed also if the first can't be synced
            both.callback(self._metrics.close)
            both.callback(self._events.close)

    def __enter__(self) -> "Journal":
        """Return the journal itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the journal."""
        self.close()

    def _append(self, file: LineFile, facts: Mapping[str, Any], time_ms: int | None) -> None:
        """Write one line, not before the last one, and not in the driver's future.

        A worker's clock may be another host's: what it says is kept within these bounds.
        """
        self.check()
        now = self._clock.now_ms()
        time_ms = max(self._last_ms[file], now if time_ms is None else min(time_ms, now))
        line = {"time_ms": time_ms, "attempt": self.attempt, **facts}
        file.append(line)
        self._last_ms[file] = time_ms
        if self.standing.is_undone_by(line):
            self.standing = Standing.read(self._folder)
        else:
            self.standing.take(line)
