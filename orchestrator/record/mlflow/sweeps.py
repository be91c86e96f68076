"""A sweep in MLflow: a run with the search space and the best values, its trials nested in it.

One process sends them all, each trial once it has ended: to import MLflow for every trial would
take longer than many trials do. It reads the table of the sweep and may be killed anywhere;
`orchestrate sync SWEEP_FOLDER` sends the rest.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import DataError, read_json
from data.messages import short
from orchestrator.config import TrackingConfig
from orchestrator.record import sweeps as files
from orchestrator.record.lines import read
from orchestrator.record.mlflow.history import RUN_TAG, find_run, key_of
from orchestrator.record.mlflow.mirror import (
    LOG,
    Mirror,
    Pending,
    State,
    new_state,
    process_name,
)
from orchestrator.record.mlflow.points import Point
from orchestrator.record.mlflow.sink import Sink
from orchestrator.record.runs import mapping

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATUS = {None: "KILLED", "done": "FINISHED", "failed": "FAILED"}
SENT_SECONDS = 1.0  # that a trial may take to be sent, at the end, beyond the usual wait


@contextmanager
def sending(
    folder: Path, config: TrackingConfig, outputs: Path, trials: int
) -> Iterator[list[str]]:
    """While the block runs, a process sends the sweep and its trials; at its end, the rest.

    Yields a list that tells, once the block is left, where the record is, or what sends the rest.

    Args:
        folder: of the sweep, with its table.
        config: the jobs' own.
        outputs: that the sweep is in.
        trials: about how many there will be.
    """
    said: list[str] = []
    if not config.enabled:
        yield said
        return
    state = new_state(config, outputs).resumed(State.load(folder))
    state.name = config.name or f"sweep {folder.name.partition('-sweep-')[2]}"
    state.finish_timeout_seconds += SENT_SECONDS * trials
    state.driver, state.system_metrics = process_name(os.getpid()), False
    state.save(folder)
    mirror = Mirror(folder.resolve(), state.finish_timeout_seconds)
    try:
        yield said
    finally:
        sent = mirror.finish()
        if isinstance(sent, Pending):
            said.append(f"it lacks a part of the sweep; that is sent by: {sent.command}")
        else:
            said.append(sent.url or f"orchestrate ui {short(folder)}")


def ended(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The run folders of trials that have ended, in the order in which they did, and the rows."""
    rows, _ = read(folder / files.TABLE)
    begun: dict[int, list[Path]] = {}
    found: list[tuple[Path, dict[str, Any]]] = []
    for row in rows:
        if row["event"] == "started":
            begun.setdefault(row["trial"], []).append((folder / row["folder"]).resolve())
        elif row["event"] == "ended":
            found += [(own, row) for own in begun.pop(row["trial"], [])]
    return [(own, row) for own, row in found if own.is_dir()]


class SweepReplay:
    """Sends what MLflow lacks of a sweep; every method may be repeated."""

    def __init__(self, folder: Path, state: State) -> None:
        """Nothing is open yet."""
        self.folder, self.state = folder, state
        self._client: MlflowClient | None = None
        self._sink: Sink | None = None
        self._sent: set[Path] = set()

    def send(self) -> None:
        """The run of the sweep, and each trial that has ended since."""
        from orchestrator.record.mlflow.replay import Replay

        sink = self._open()
        for run, row in ended(self.folder):
            if run in self._sent:
                continue
            state = State.load(run)
            if state is not None and not state.done:
                with (run / LOG).open("ab") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    replay = Replay(run, state)
                    replay.send()
                    replay.finish()
                    told = {"sweep.trial": str(row["trial"]), "sweep.status": row["status"]}
                    replay.sink.tags(told)
            self._sent.add(run)
        for batch in sink.points(self._points()):
            sink.metrics(batch)

    def finish(self) -> None:
        """The files of the sweep, and how it ended."""
        sink = self._open()
        report = mapping(self.folder / files.REPORT)
        names = (files.TABLE, files.ASKED, files.REPORT, files.BEST, *files.PICTURES)
        for name in names:
            if (self.folder / name).is_file():
                sink.artifact(str(self.folder / name), None)
        for path in (self.folder / files.EXPERIMENTS).glob("*.yaml"):
            sink.artifact(str(path), files.EXPERIMENTS)
        sink.tags({"mlflow.note.content": self._note(report)})
        assert self._client is not None
        self._client.set_terminated(sink.run_id, STATUS.get(report.get("status"), "KILLED"))
        self.state.done = True
        self.state.save(self.folder)

    def _open(self) -> Sink:
        """The run of the sweep: found by its tag, or new."""
        if self._sink is not None:
            return self._sink
        from orchestrator.record.mlflow.replay import user_name
        from orchestrator.record.mlflow.store import connect, experiment_id

        self._client = client = connect(self.state)
        self.state.experiment_id = experiment_id(client, self.state)
        key = key_of(self.folder)
        run = find_run(client, [self.state.experiment_id], key)
        if run is None:
            tags = {RUN_TAG: key, "mlflow.user": user_name(), "stage": "sweep"}
            run = client.create_run(self.state.experiment_id, tags=tags, run_name=self.state.name)
        elif run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        self.state.run_id = str(run.info.run_id)
        self.state.save(self.folder)
        sink = Sink(client, self.state.run_id)
        sink.params(_params(self.folder))
        self._sink = sink
        return sink

    def _points(self) -> list[Point]:
        """The values of each trial and the best so far, over the numbers of trials."""
        asked = mapping(self.folder / files.ASKED)
        objectives = asked.get("objectives") or []
        rows, _ = read(self.folder / files.TABLE)
        found: list[Point] = []
        best: dict[str, float] = {}
        for row in rows:
            if row["event"] != "ended" or row["status"] != "done":
                continue
            for (metric, direction), value in zip(objectives, row["values"], strict=False):
                better = min if direction == "lower" else max
                best[metric] = better(best.get(metric, value), value)
                found.append(Point(f"trial/{metric}", value, row["time_ms"], row["trial"]))
                found.append(Point(f"best/{metric}", best[metric], row["time_ms"], row["trial"]))
        return found

    def _note(self, report: Mapping[str, Any]) -> str:
        """The description of the run, in Markdown."""
        return "\n".join(f"    {line}" for line in report.get("lines", ()))


def _params(folder: Path) -> dict[str, str]:
    """What was asked for."""
    try:
        asked = read_json(folder / files.ASKED)
    except DataError:
        return {}
    params = {f"sweep.{k}": str(v) for k, v in asked.get("settings", {}).items() if v is not None}
    for part in asked.get("space", ()):
        if isinstance(part, dict):
            params[part["name"]] = ", ".join(part["words"]) if "words" in part else json.dumps(part)
        else:
            name, _, value = part.partition("=")
            params[name.lstrip("+")] = value
    return params
