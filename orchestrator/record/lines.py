"""A file of JSON lines that one process appends to and any may read at any time.

A line is written with one system call to a file opened for appending, so it survives the death of
the process; `sync` makes it survive the death of the host. JSON has no NaN or infinity: they are
written as the strings "NaN", "Infinity" and "-Infinity", and `read` turns the values of "metrics"
back into floats.
"""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.files import naming

# The two files of a run's journal.
METRICS = "metrics.jsonl"
EVENTS = "events.jsonl"


class JournalError(ValueError):
    """A line in the middle of a journal is not what was written there."""


class LineFile:
    """A file of JSON lines, open for appending. Every OSError raised here names its path."""

    def __init__(self, path: Path) -> None:
        """Open or make `path`; the torn last line of a killed writer is cut off."""
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._closed = False
        size = os.fstat(self._descriptor).st_size
        end = _after_newline(self._descriptor, size)
        if end < size:
            os.ftruncate(self._descriptor, end)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line wholly or, when the disk is full, not at all.

        Raises:
            OSError: nothing was written.
        """
        line = (json.dumps(strict(record), allow_nan=False) + "\n").encode()
        start = os.fstat(self._descriptor).st_size
        try:
            with naming(self.path):
                written = 0
                while written < len(line):
                    written += os.write(self._descriptor, line[written:])
        except OSError:
            os.ftruncate(self._descriptor, start)
            raise

    def claim(self) -> None:
        """Be the only process that writes, until the file is closed or this process ends.

        Raises:
            BlockingIOError: another process is. Without locks in the file system nobody can tell.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        with naming(self.path):
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Sync and close, also if the sync fails; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self.sync()
        finally:
            os.close(self._descriptor)


def _after_newline(descriptor: int, end: int) -> int:
    """Offset after the last newline before byte `end`; 0 when there is none."""
    while end > 0:
        start = max(0, end - 65536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


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


def is_claimed(path: Path, *, unknown: bool = False) -> bool:
    """Whether a process has claimed the file; `unknown` where the file system has no locks."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    except OSError:
        return unknown
    return False


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
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        with path.open("rb") as file:
            number = file.read(start).count(b"\n") + 1
        raise JournalError(
            f"{path}:{number} is damaged ({error}): {line[:80]!r}; the lines before it are good, "
            "restore the file or delete this line to read on"
        ) from error
    return record


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
