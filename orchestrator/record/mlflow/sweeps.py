"""A sweep in MLflow: a run with the search space and the best values, its trials nested in it.

One process sends them all, each trial once it has ended: to import MLflow for every trial would
take longer than many trials do. It reads the table of the sweep and may be killed anywhere;
`orchestrate sync SWEEP_FOLDER` sends the rest.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.files import DataError, read_json
from data.messages import short
from orchestrator.config import TrackingConfig
from orchestrator.record import sweeps as files
from orchestrator.record.lines import read
from orchestrator.record.mlflow.description import Description, picture
from orchestrator.record.mlflow.history import RUN_TAG, find_run, key_of
from orchestrator.record.mlflow.mirror import (
    LOG,
    Mirror,
    Pending,
    State,
    new_state,
    process_name,
)
from orchestrator.record.mlflow.naming import trial_name
from orchestrator.record.mlflow.points import Point
from orchestrator.record.mlflow.registry import register
from orchestrator.record.mlflow.sink import Sink
from orchestrator.record.mlflow.view import OBJECTIVE, put_sweep
from orchestrator.record.runs import mapping, words_of

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
            if sent.ranking_url:
                said.append(f"its trials, best first: {sent.ranking_url}")


@dataclass(frozen=True)
class Trial:
    """A trial that has ended."""

    number: int
    row: dict[str, Any]
    """Of the table, which says how it ended."""
    point: dict[str, Any]
    """Its values of the settings in which the trials differ."""
    folders: tuple[Path, ...]
    """Run folders of its attempts, in their order; the last one has the whole curves."""


def ended(folder: Path) -> list[Trial]:
    """The trials of a sweep that have ended, in the order in which they did."""
    rows, _ = read(folder / files.TABLE)
    begun: dict[int, list[Path]] = {}
    points: dict[int, dict[str, Any]] = {}
    found: list[Trial] = []
    for row in rows:
        if row["event"] == "proposed":
            points[row["trial"]] = row.get("point") or {}
        elif row["event"] == "started":
            begun.setdefault(row["trial"], []).append((folder / row["folder"]).resolve())
        elif row["event"] == "ended":
            own = tuple(path for path in begun.pop(row["trial"], ()) if path.is_dir())
            found.append(Trial(row["trial"], row, points.get(row["trial"], {}), own))
    return found


class SweepReplay:
    """Sends what MLflow lacks of a sweep; every method may be repeated."""

    def __init__(self, folder: Path, state: State) -> None:
        """Nothing is open yet."""
        self.folder, self.state = folder, state
        self._client: MlflowClient | None = None
        self._sink: Sink | None = None
        self._sent: set[int] = set()

    def send(self) -> None:
        """The run of the sweep, and each trial that has ended since."""
        sink = self._open()
        for trial in ended(self.folder):
            if trial.number not in self._sent and trial.folders:
                self._send_trial(trial)
            self._sent.add(trial.number)
        for batch in sink.points(self._points()):
            sink.metrics(batch)

    def _send_trial(self, trial: Trial) -> None:
        """Its last attempt is nested in the sweep, and the earlier ones in that."""
        from orchestrator.record.mlflow.replay import Replay

        states = [State.load(run) for run in trial.folders]
        if all(state is None or state.done for state in states):
            return
        parent = self.state.run_id
        for run, state in reversed([*zip(trial.folders, states, strict=True)]):
            if state is None:
                continue
            with (run / LOG).open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                named = trial_name(trial.number, trial.point)
                state.name = state.name or f"{named}, {Description(run).kind}"
                replay = Replay(run, state)
                replay.send()
                replay.finish()
                told = {"sweep.trial": str(trial.number), "sweep.status": trial.row["status"]}
                replay.sink.tags(told | {"mlflow.parentRunId": str(parent)})
                # A group of choices is no setting of the job, so only the sweep knows which it was.
                known = replay.description.params()
                chosen = {k: str(v) for k, v in trial.point.items() if k not in known}
                replay.sink.params(chosen)
                for batch in replay.sink.points(self._objectives(trial)):
                    replay.sink.metrics(batch)
            parent = state.run_id

    def _objectives(self, trial: Trial) -> list[Point]:
        """What the trial is ranked by."""
        values, at = trial.row.get("values") or (), trial.row["time_ms"]
        steps = int(trial.row.get("steps") or 0)
        named = zip(self._ranked_by(), values, strict=False)
        return [Point(f"{OBJECTIVE}{metric}", value, at, steps) for (metric, _), value in named]

    def _ranked_by(self) -> list[tuple[str, str]]:
        """The metrics, and `lower` or `higher` for what is better."""
        asked = mapping(self.folder / files.ASKED)
        return [(str(metric), str(better)) for metric, better in asked.get("objectives") or ()]

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
        self._register_best(report)
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
            run = client.create_run(self.state.experiment_id, tags=tags, run_name=self._name())
        elif run.info.status != "RUNNING":
            client.update_run(run.info.run_id, status="RUNNING")
        self.state.run_id = str(run.info.run_id)
        if ranked_by := self._ranked_by():
            axes = [axis["name"] for axis in _axes(self.folder)]
            self.state.view = put_sweep(client, self.state, ranked_by, axes)
        self.state.save(self.folder)
        sink = Sink(client, self.state.run_id)
        sink.params(_params(self.folder))
        self._sink = sink
        return sink

    def _name(self) -> str:
        """Of the run: what the trials do, and in what they differ."""
        stage = _params(self.folder).get("stage", "")
        differ = ", ".join(axis["name"].rpartition(".")[2] for axis in _axes(self.folder))
        return f"{self.state.name}: {' by '.join(filter(None, (stage, differ)))}".rstrip(": ")

    def _points(self) -> list[Point]:
        """The values of each trial and the best so far, over the numbers of trials."""
        objectives = self._ranked_by()
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
        """The description of the run, in Markdown: the best, the pictures, the whole report."""
        text = []
        best = next(iter(report.get("best") or ()), None)
        if best is not None:
            named = zip(self._ranked_by(), best["values"], strict=False)
            values = ", ".join(f"{value:.4g} {words_of(metric)}" for (metric, _), value in named)
            count = sum((report.get("trials") or {}).values())
            trial = trial_name(best["trial"], best["point"])
            text.append(f"**{values}** by the best of {count} trials, {trial}")
        page = self.state.ranking.removeprefix("/")
        text += ["", f"[All trials, best first]({page}) · `orchestrate show`, `sweep --resume`"]
        shown = [name for name in files.PICTURES if (self.folder / name).is_file()]
        text += ["", *(picture(str(self.state.run_id), name) for name in shown), ""]
        text += ["```", *report.get("lines", ()), "```"]
        return "\n".join(text)

    def _register_best(self, report: Mapping[str, Any]) -> None:
        """Make the best trial a version of its registered model."""
        assert self._client is not None
        best = next(iter(report.get("best") or ()), None)
        found = [trial for trial in ended(self.folder) if best and trial.number == best["trial"]]
        for run in (own.folders[-1] for own in found if own.folders):
            state = State.load(run)
            if state is not None and state.done:
                register(self._client, run, state)


def _axes(folder: Path) -> list[dict[str, Any]]:
    """The settings in which the trials differ."""
    space = mapping(folder / files.ASKED).get("space", ())
    return [part for part in space if isinstance(part, dict)]


def _params(folder: Path) -> dict[str, str]:
    """What was asked for."""
    try:
        asked = read_json(folder / files.ASKED)
    except DataError:
        return {}
    params = {f"sweep.{k}": str(v) for k, v in asked.get("settings", {}).items() if v is not None}
    for part in asked.get("space", ()):
        if isinstance(part, dict):
            params[part["name"]] = _range(part)
        else:
            name, _, value = part.partition("=")
            params[name.lstrip("+")] = value
    return params


def _range(axis: Mapping[str, Any]) -> str:
    """The values that a setting may have."""
    if "words" in axis:
        return ", ".join(axis["words"])
    whole, log = axis.get("whole"), axis.get("log")
    kind = " in whole numbers" if whole else " by factors" if log else ""
    step = f" in steps of {axis['step']:g}" if axis.get("step") else ""
    return f"{axis['low']:g} to {axis['high']:g}{step}{kind}"
