"""Send a run folder to MLflow; every call can be repeated without doubling anything.

What is sent follows from the run folder alone; the state says only how far it got, and moves on
after a send has succeeded.

What makes it so: metrics carry the times of the journal, and MLflow takes a point with the same
metric, time, step and value once; the run and the models of checkpoints are found by a tag before
they are created; params, tags, inputs and artifacts are the same when written twice.
"""

import getpass
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.record.lines import EVENTS, METRICS, read
from orchestrator.record.mlflow import view
from orchestrator.record.mlflow.checkpoints import CheckpointModels
from orchestrator.record.mlflow.constants import Constants
from orchestrator.record.mlflow.description import FIGURES, SIZES, Description
from orchestrator.record.mlflow.history import (
    RUN_TAG,
    find_run,
    key_of,
    parent_of,
    points_before,
)
from orchestrator.record.mlflow.mirror import State, scratch
from orchestrator.record.mlflow.origins import Origins
from orchestrator.record.mlflow.points import CHUNK_BYTES, Datasets, Point, Points, every_point
from orchestrator.record.mlflow.registry import register
from orchestrator.record.mlflow.sink import Sink
from orchestrator.record.mlflow.store import SYSTEM, connect, experiment_id
from orchestrator.record.mlflow.view import PARAMETERS, RESULT
from orchestrator.record.reading import lies_in
from orchestrator.record.standing import Standing
from orchestrator.record.story.sentences import LIVE
from orchestrator.record.story.spending import GOODPUT, spending

log = logging.getLogger("tracking")

RUN_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class Replay:
    """Sends what MLflow lacks of one run folder; each method may be repeated."""

    def __init__(self, folder: Path, state: State) -> None:
        """Open the store and the run."""
        self.folder = folder
        self.state = state
        self.description = Description(folder)
        self.points = Points(folder)
        self.constants = Constants(folder, state, self.points)
        self.client = connect(state)
        state.experiment_id = experiment_id(self.client, state)
        self.run_id = self._open_run(state.experiment_id)
        self.sink = Sink(self.client, self.run_id)
        self.checkpoints = CheckpointModels(folder, state, self.sink, self.points)
        self.origins = Origins(self.sink, self.points)
        self.datasets = self._datasets_sent()
        self.described = False

    def send(self) -> None:
        """Send what is new in the run folder."""
        if not self.described and (self.folder / "code.json").exists():
            self._describe()
        self._send_events()
        for name in (METRICS, SYSTEM):
            self._send_metrics(name)

    def finish(self) -> None:
        """Send the artifacts and how the job ended."""
        self._describe()
        status = self.state.status or self.description.result.get("status") or "killed"
        if self.state.parent is None:  # a sweep draws its trials together
            self._draw()
        self.sink.tags(self.description.final_tags(status, self.state.lineage, self.run_id))
        with scratch(self.folder) as records:
            self.description.copy_records(records)
            self.client.log_artifacts(self.run_id, str(records))
        if (self.folder / FIGURES).exists():
            self.client.log_artifacts(self.run_id, str(self.folder / FIGURES), FIGURES)
        self.points.descent.refresh()
        points, params = self.constants.settled()
        self._send_points(*points)
        self.sink.params(params)
        self.checkpoints.forget_gone()
        ended = self.description.last_time()
        if self.state.status is None:
            self._measure_goodput(ended)
        if self.state.parent is None:  # a sweep registers its best
            register(self.client, self.folder, self.state)
        self.client.set_terminated(self.run_id, RUN_STATUS.get(status, "KILLED"), ended)
        self.state.done = True
        self.state.save(self.folder)

    def _send_points(self, *points: Point) -> None:
        for batch in self.sink.points(points):
            self._accept(batch[0].key, self.sink.metrics, batch)

    def _measure_goodput(self, ended: int) -> None:
        """Of a run whose driver was killed before it could put it on record."""
        standing = Standing.read(self.folder)
        goodput = spending(self.folder, standing).goodput
        if goodput is not None:
            self._send_points(Point(GOODPUT, goodput, ended, standing.step))

    def _open_run(self, experiment: str) -> str:
        """The run of this folder: found by its tag, or new; RUNNING, as it is being sent."""
        state = self.state
        key = key_of(self.folder)
        run = find_run(self.client, [experiment], key)
        if run is not None:
            if run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self.client.create_run(
                experiment,
                start_time=self.description.first_time(),
                tags={RUN_TAG: key, "mlflow.user": user_name()},
                run_name=self.description.redactor.known(state.name or self.description.name),
            )
        if state.run_id != run.info.run_id:  # a store that has nothing of it yet
            state.run_id = run.info.run_id
            state.offsets, state.constant, state.refused = {}, {}, []
        state.save(self.folder)
        return str(run.info.run_id)

    def _describe(self) -> None:
        """Params and tags: what was asked for, and where it comes from."""
        self.sink.params(self.description.params())
        self.sink.tags(self.description.tags())
        if self.state.parent is not None:
            sweep = find_run(self.client, [str(self.state.experiment_id)], self.state.parent)
            if sweep is not None:
                self.sink.tags({"mlflow.parentRunId": sweep.info.run_id})
        self.state.view = view.put(self.client, self.state, self.description)
        self.described = True

    def _send_metrics(self, name: str) -> None:
        """Send the new lines of a file of metrics; only then is it noted that they are sent."""
        while True:
            offset = self.state.offsets.get(name, 0)
            lines, end = read(self.folder / name, offset, CHUNK_BYTES)
            if not lines:
                return
            points = self.points.of(lines) if name == METRICS else every_point(lines)
            self._send_changing(f"{name} at byte {offset}", points + self._results(points))
            self.state.offsets[name] = end
            self.state.save(self.folder)

    def _send_changing(self, what: str, points: list[Point]) -> None:
        """Send points, but not yet those of a series that has had one value so far."""
        for own in self.constants.changing(points):
            for batch in self.sink.points(own):
                self._accept(what, self.sink.metrics, batch)

    def _results(self, points: list[Point]) -> list[Point]:
        """The values that rank a run which gives its last weights, as it goes."""
        score = (self.description.score or {}).get("metric")
        if score is None or self.description.keeps_best:
            return []
        return [p._replace(key=f"{RESULT}{score}") for p in points if p.key == score]

    def _send_events(self) -> None:
        """Send the new events that MLflow has a place for, one at a time."""
        handlers: dict[str, Callable[[dict[str, Any], int], None]] = {
            "started": self._started,
            "dataset": self._dataset,
            "tokenizer": self._tokenizer,
            "weights": self._weights,
            "evaluated": self._evaluated,
            "checkpoint": self._checkpoint,
            "best": self._best,
            "artifact": self._artifact,
            "drift": self._drift,
            "finished": self._finished,
            **dict.fromkeys(LIVE, self._told),
            "resumed": self._resumed,
        }
        while True:
            offset = self.state.offsets.get(EVENTS, 0)
            events, end = read(self.folder / EVENTS, offset, max_bytes=1)
            if not events:
                return
            kind = events[0]["event"]
            if kind in handlers:
                what = f"event {kind} at byte {offset} of {EVENTS}"
                self._accept(what, handlers[kind], events[0], offset)
            self.state.offsets[EVENTS] = end
            self.state.save(self.folder)

    def _accept(self, what: str, send: Callable[..., None], *arguments: Any) -> None:
        """Call `send`; what can never succeed is noted in mlflow.json and passed over."""
        from mlflow.exceptions import MlflowException

        try:
            send(*arguments)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise  # the store is away: the caller tries again
            problem: Exception = error
        except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
            problem = error
        else:
            return
        log.warning("passed over %s: %r", what, problem)
        self.state.refused.append(f"{what}: {type(problem).__name__}: {problem}")

    def _started(self, event: dict[str, Any], offset: int) -> None:
        self.state.status = None
        roles = event.get("roles", {}).values()
        if roles and event.get("attempt", 1) == 1:
            count = sum(int(role["parameters"]) for role in roles)
            self._send_points(Point(PARAMETERS, count, event["time_ms"], 0))

    def _best(self, event: dict[str, Any], offset: int) -> None:
        """What the run would give if it ended now, for the table of runs."""
        score = (self.description.score or {}).get("metric")
        if score in event.get("metrics", {}):
            value = event["metrics"][score]
            self._send_points(
                Point(f"{RESULT}{score}", value, event["time_ms"], int(event["step"]))
            )

    def _told(self, event: dict[str, Any], offset: int) -> None:
        """The description of the run says at once what a user would want to know at once."""
        self.sink.tags({"mlflow.note.content": self.description.note(None, self.state.lineage)})

    def _finished(self, event: dict[str, Any], offset: int) -> None:
        self.state.status = event["status"]

    def _dataset(self, event: dict[str, Any], offset: int) -> None:
        """A dataset is an input of the run, known by its fingerprint."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        split, (name, digest) = event.get("split", "train"), self.datasets.add(event)
        fingerprint = str(event["fingerprint"])
        source = self.description.redactor.text(str(event.get("source", "")))
        remote = source.startswith("http")
        sizes = {name: event[name] for name in SIZES if name in event}
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="http" if remote else "local",
            source=json.dumps({"url" if remote else "uri": source}),
            schema=_schema(event.get("columns", {})),
            profile=json.dumps(sizes),
        )
        tags = [InputTag("mlflow.data.context", split), InputTag("fingerprint", fingerprint)]
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])
        own = f"{event['name']}." if event.get("mixture") else ""
        self._lineage(f"dataset.{own}{split}", fingerprint)

    def _datasets_sent(self) -> Datasets:
        """The datasets that an earlier sender of this folder has sent."""
        datasets, sent = Datasets(), self.state.offsets.get(EVENTS, 0)
        events, _ = read(self.folder / EVENTS, 0, sent) if sent else ([], 0)
        for event in events:
            if event["event"] == "dataset":
                datasets.add(event)
        return datasets

    def _resumed(self, event: dict[str, Any], offset: int) -> None:
        """Say which attempts the curves are made of, once there are several; and which run before.

        The curves of a run that goes on from another begin with those of that one.
        """
        self.points.descent.refresh()
        if self.points.descent.newest > 1:
            self.sink.tags({"descent": str(self.points.descent)})
        parent = parent_of(self.folder, event)
        if parent is None:
            return
        for points in points_before(self.folder, event):
            self._send_changing(f"metrics of {parent.name}", points)
        self.sink.tags({"resumed.run": key_of(parent), "resumed.step": str(event["step"])})
        self.origins.resumed(event, key_of(parent))

    def _weights(self, event: dict[str, Any], offset: int) -> None:
        self.origins.link(event)

    def _evaluated(self, event: dict[str, Any], offset: int) -> None:
        self.origins.measured(event, self.datasets)

    def _tokenizer(self, event: dict[str, Any], offset: int) -> None:
        self.sink.tags(
            {f"tokenizer.{k}": str(event[k]) for k in ("vocab_size", "kind") if k in event}
        )
        self._lineage("tokenizer", str(event["fingerprint"]))
        self._upload(self.folder / event["path"], "tokenizer")

    def _lineage(self, name: str, fingerprint: str) -> None:
        self.state.lineage[name] = fingerprint
        self.sink.tags({f"{name}.fingerprint": fingerprint})

    def _artifact(self, event: dict[str, Any], offset: int) -> None:
        path = self.folder / event["path"]
        folder = event.get("artifact_path")
        self._upload(path, folder)
        if event.get("table"):
            self.sink.table(f"{folder}/{path.name}" if folder else path.name)

    def _upload(self, path: Path, folder: str | None) -> None:
        """Send a file of the run folder. Raises ValueError for one outside, by `..` or a link."""
        if not lies_in(self.folder, path):
            raise ValueError(f"{path} is not in the run folder, so it is not sent")
        self.sink.artifact(str(path), folder)

    def _drift(self, event: dict[str, Any], offset: int) -> None:
        found = "; ".join(event["findings"])
        self.sink.tags({f"drift.{event['dataset']}": found or "passed"})

    def _checkpoint(self, event: dict[str, Any], offset: int) -> None:
        """A checkpoint is a model, as long as somebody can go on from it."""
        self.points.descent.refresh()
        if self.checkpoints.is_current(event):
            self.checkpoints.send(event, offset, self.datasets)

    def _draw(self) -> None:
        """Save the figures in the run folder; one that fails must not hold up the record."""
        from orchestrator.record.figures import training_figures

        try:
            for name, figure in training_figures(self.folder).items():
                (self.folder / FIGURES).mkdir(exist_ok=True)
                figure.savefig(self.folder / FIGURES / f"{name}.png", dpi=150)
        except Exception:
            log.exception("no figures")


def _schema(columns: dict[str, str]) -> str | None:
    """Columns with their types as MLflow writes those of a table. None: none are known."""
    spec = [{"name": name, "type": kind, "required": True} for name, kind in columns.items()]
    return json.dumps({"mlflow_colspec": spec}) if spec else None


def user_name() -> str:
    """Of whoever runs this; the number where it has no name, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
