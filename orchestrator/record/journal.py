"""The journal of a run: metrics.jsonl and events.jsonl, one JSON object per line.

The driver of a job is the only writer. A line is written with one system call to a file opened for
appending, so it survives the death of the process; `sync` makes it survive the death of the host.
JSON has no NaN or infinity: they are written as the strings "NaN", "Infinity" and "-Infinity", and
`read` turns the values of "metrics" back into floats.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"


class JournalError(ValueError):
    """A line in the middle of a journal is not what was written there."""


class Journal:
    """Appends metrics and events to a run folder; `attempt` may be raised when a job is retried."""

    def __init__(self, folder: Path, attempt: int = 1) -> None:
        """Open both files in `folder`; the torn last line of a killed writer is cut off."""
        self.attempt = attempt
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = open_for_append(folder / METRICS)
        self._events = open_for_append(folder / EVENTS)
        self._closed = False

    def metrics(self, step: int, values: Mapping[str, float], time_ms: int | None = None) -> None:
        """Record what was measured at optimizer step `step`; `time_ms` is when, None is now."""
        numbers = {key: float(value) for key, value in values.items()}
        line = {
            "time_ms": now_ms() if time_ms is None else time_ms,
            "attempt": self.attempt,
            "step": int(step),
            "metrics": numbers,
        }
        append(self._metrics, line)

    def event(self, kind: str, /, **facts: Any) -> None:
        """Record that something happened, e.g. `event("checkpoint", step=100, path=...)`."""
        append(self._events, {"time_ms": now_ms(), "event": kind, **facts})

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        os.fsync(self._metrics)
        os.fsync(self._events)

    def close(self) -> None:
        """Sync and close both files; a second call does nothing."""
        if not self._closed:
            self.sync()
            os.close(self._metrics)
            os.close(self._events)
            self._closed = True

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


def now_ms() -> int:
    """Wall-clock time, milliseconds since 1970: the unit of MLflow's timestamps."""
    return time.time_ns() // 1_000_000


def open_for_append(path: Path) -> int:
    """Open a file of JSON lines and return its descriptor, after cutting off a torn last line."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    size = os.fstat(descriptor).st_size
    end = _after_newline(descriptor, size)
    if end < size:
        os.ftruncate(descriptor, end)
    return descriptor


def _after_newline(descriptor: int, end: int) -> int:
    """Offset after the last newline before byte `end`; 0 when there is none."""
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def append(descriptor: int, record: Mapping[str, Any]) -> None:
    """Write one line wholly or, when the disk is full, not at all.

    Raises:
        OSError: nothing was written.
    """
    line = (json.dumps(strict(record), allow_nan=False) + "\n").encode()
    start = os.fstat(descriptor).st_size
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        os.ftruncate(descriptor, start)
        raise


def strict(value: Any) -> Any:
    """The same value in what strict JSON can hold; see the module's docstring for NaN."""
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [strict(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):  # a NumPy or PyTorch scalar
        return strict(value.item())
    raise TypeError(f"a journal can't hold {value!r} of type {type(value).__name__}")


def read(
    path: Path, offset: int = 0, max_bytes: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Complete lines from byte `offset` on, and the offset after the last of them.

    A torn last line is left for the next call, and a missing file has no lines. With `max_bytes`
    the call ends after the line that reaches so many.

    Raises:
        JournalError: a complete line can't be read, with its file and line number.
    """
    records = []
    end = offset
    for start, line in _lines(path, offset):
        records.append(_parse(path, start, line))
        end = start + len(line)
        if max_bytes is not None and end - offset >= max_bytes:
            break
    return records, end


def last_line(path: Path) -> dict[str, Any] | None:
    """The last complete line. None: there is none."""
    if not path.exists():
        return None
    with path.open("rb") as file:
        end = _after_newline(file.fileno(), file.seek(0, os.SEEK_END))
        if end == 0:
            return None
        start = _after_newline(file.fileno(), end - 1)
        file.seek(start)
        return _parse(path, start, file.read(end - start))


def at_step(path: Path, step: int) -> Iterator[dict[str, Any]]:
    """Lines of metrics of one step, in the order written; the others are not parsed."""
    wanted = f'"step": {step},'.encode()
    for start, line in _lines(path, 0):
        if wanted in line:
            yield _parse(path, start, line)


def _lines(path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
    """(offset, line with its newline) of each complete line from `offset` on."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield offset, line
            offset += len(line)


def _parse(path: Path, start: int, line: bytes) -> dict[str, Any]:
    """One line as a dict, the values of "metrics" as floats."""
    try:
        record = json.loads(line, parse_constant=_refuse)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        if "metrics" in record:
            record["metrics"] = {key: float(value) for key, value in record["metrics"].items()}
    except (ValueError, TypeError, AttributeError) as error:
        with path.open("rb") as file:
            number = file.read(start).count(b"\n") + 1
        raise JournalError(
            f"{path}:{number} is damaged ({error}): {line[:80]!r}; the lines before it are good, "
            "restore the file or delete this line to read on"
        ) from error
    return record


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
