"""What rank 0 has said in an attempt, in a file until the driver has it in the journal.

Records travel through the memory of the worker: those of its last moments die with it, also the
metrics of a step whose checkpoint was published, to which the run goes back. A line written to a
file survives the process; `sync`, before a checkpoint is published, makes it survive the host.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.record.journal import Journal
from orchestrator.record.lines import EVENTS, METRICS, LineFile, read

NAME = ".records-{}.jsonl"


class Outbox:
    """The worker's side: writes a record down, then sends it."""

    def __init__(self, folder: Path, attempt: int, send: Callable[[dict[str, Any]], None]) -> None:
        """Of this attempt of the run in `folder`; `send` hands a record to the driver."""
        self._file, self._send = LineFile(folder / NAME.format(attempt)), send

    def send(self, record: dict[str, Any]) -> None:
        """Write a record down and hand it to the driver."""
        self._file.append(record)
        self._send(record)

    def sync(self) -> None:
        """Return when what was sent is on the disk."""
        self._file.sync()

    def __enter__(self) -> "Outbox":
        """Return the outbox itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file, which stays."""
        self._file.close()


def unheard(folder: Path, attempt: int, heard: int) -> list[dict[str, Any]]:
    """The records of an attempt that is over, without the first `heard`; its file is removed."""
    path = folder / NAME.format(attempt)
    records, _ = read(path)
    path.unlink(missing_ok=True)
    return records[heard:]


def complete(folder: Path) -> None:
    """Put into the journal of a run what its driver was killed before it could hear.

    For a run that is over, before another goes on from its checkpoint. What the journal has of an
    attempt is known by step and path of each kind of record.

    Raises:
        OSError, ValueError: the journal can't be written, or somebody else writes it.
    """
    for path in sorted(folder.glob(NAME.format("*"))):
        attempt = int(path.stem.rpartition("-")[2])
        lines = [*read(folder / METRICS)[0], *read(folder / EVENTS)[0]]
        known = Counter(_key(line) for line in lines if line["attempt"] == attempt)
        with Journal(folder, attempt) as journal:
            for record in unheard(folder, attempt, 0):
                known.subtract([_key(record)])
                if known[_key(record)] >= 0:
                    continue
                time_ms, kind = record.pop("time_ms"), record.pop("event", None)
                if kind is None:
                    journal.metrics(record["step"], record["metrics"], time_ms)
                else:
                    journal.event(kind, **record)


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return record.get("event"), record.get("step"), record.get("path")
