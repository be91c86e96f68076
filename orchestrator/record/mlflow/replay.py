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
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from orchestrator.record.lines import EVENTS, METRICS, read
from orchestrator.record.mlflow.description import Description
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.points import CHUNK_BYTES, Datasets, Point, Points
from orchestrator.record.mlflow.store import SYSTEM, connect, experiment_id
from orchestrator.record.redaction import redact_url

if TYPE_CHECKING:
    from mlflow.entities import Metric

Item = TypeVar("Item")

log = logging.getLogger("tracking")

RUN_TAG = "orchestrate.run"
EVENT_TAG = "orchestrate.event"
CHECKPOINT_FACTS = (
    "manifest_sha256", "bytes", "data_cursor", "data_multiset", "data_skipped_sequences",
)  # fmt: skip
EXTERNAL_TAG = "mlflow.model.isExternal"
RUN_STATUS = {"done": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
METRICS_PER_CALL = 1000  # MLflow's limit
TAGS_PER_CALL = 100  # MLflow's limit, for params too


class Replay:
    """Sends what MLflow lacks of one run folder; each method may be repeated."""

    def __init__(self, folder: Path, state: State) -> None:
        """Open the store and the run."""
        self.folder = folder
        self.state = state
        self.description = Description(folder)
        self.points = Points(folder)
        self.client = connect(state)
        state.experiment_id = experiment_id(self.client, state)
        self.run_id = self._open_run(state.experiment_id)
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
        self._tags(self.description.final_tags(status, self.state.lineage))
        with tempfile.TemporaryDirectory() as scratch:
            self.description.copy_records(Path(scratch))
            self._draw(Path(scratch) / "figures")
            self.client.log_artifacts(self.run_id, scratch)
        ended = self.description.last_time()
        self.client.set_terminated(self.run_id, RUN_STATUS.get(status, "KILLED"), ended)
        self.state.done = True
        self.state.save(self.folder)

    def _open_run(self, experiment: str) -> str:
        """The run of this folder: found by its tag, or new; RUNNING, as it is being sent."""
        state = self.state
        key = quote("/".join(self.folder.parts[-2:]))
        found = self.client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{key}'", max_results=1)
        if found:
            run = found[0]
            if run.info.status != "RUNNING":
                self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self.client.create_run(
                experiment,
                start_time=self.description.first_time(),
                tags={RUN_TAG: key, "mlflow.user": getpass.getuser()},
                run_name=state.name,
            )
        if state.run_id != run.info.run_id:  # a store that has nothing of it yet
            state.run_id = run.info.run_id
            state.offsets, state.refused = {}, []
        state.save(self.folder)
        return str(run.info.run_id)

    def _describe(self) -> None:
        """Params and tags. A param can't change in MLflow, so a changed one becomes a tag."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        texts = {_key(name): text[:6000] for name, text in self.description.params().items()}
        params = [Param(key, text) for key, text in texts.items() if key not in known]
        for batch in _batches(params, TAGS_PER_CALL):
            self.client.log_batch(self.run_id, params=batch)
        changed = {f"changed.{k}": text for k, text in texts.items() if known.get(k, text) != text}
        self._tags({**self.description.tags(), **changed})
        self.described = True

    def _tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(_key(name), text[:5000]) for name, text in tags.items()]
        for batch in _batches(entities, TAGS_PER_CALL):
            self.client.log_batch(self.run_id, tags=batch)

    def _send_metrics(self, name: str) -> None:
        """Send the new lines of a file of metrics; only then is it noted that they are sent."""
        from mlflow.entities import Metric

        while True:
            offset = self.state.offsets.get(name, 0)
            lines, end = read(self.folder / name, offset, CHUNK_BYTES)
            if not lines:
                return
            points = self.points.of(lines) if name == METRICS else _all_points(lines)
            metrics = [Metric(_key(p.key), p.value, p.time_ms, p.step) for p in points]
            for batch in _batches(metrics, METRICS_PER_CALL):
                self._accept(f"{name} at byte {offset}", self._log_metrics, batch)
            self.state.offsets[name] = end
            self.state.save(self.folder)

    def _log_metrics(self, metrics: "list[Metric]") -> None:
        self.client.log_batch(self.run_id, metrics=metrics)

    def _send_events(self) -> None:
        """Send the new events that MLflow has a place for, one at a time."""
        handlers: dict[str, Callable[[dict[str, Any], int], None]] = {
            "started": self._started,
            "dataset": self._dataset,
            "tokenizer": self._tokenizer,
            "resumed": self._resumed,
            "checkpoint": self._checkpoint,
            "artifact": self._artifact,
            "drift": self._drift,
            "finished": self._finished,
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

    def _finished(self, event: dict[str, Any], offset: int) -> None:
        self.state.status = event["status"]

    def _dataset(self, event: dict[str, Any], offset: int) -> None:
        """A dataset is an input of the run, known by its fingerprint."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        split, (name, digest) = event.get("split", "train"), self.datasets.add(event)
        fingerprint = str(event["fingerprint"])
        source = redact_url(str(event.get("source", "")))
        remote = source.startswith("http")
        sizes = {name: event[name] for name in ("documents", "bytes", "tokens") if name in event}
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="http" if remote else "local",
            source=json.dumps({"url" if remote else "uri": source}),
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
        """Say which attempts the curves are made of, once there are several."""
        self.points.descent.refresh()
        if self.points.descent.newest > 1:
            self._tags({"descent": str(self.points.descent)})

    def _tokenizer(self, event: dict[str, Any], offset: int) -> None:
        self.client.log_artifact(self.run_id, str(self.folder / event["path"]), "tokenizer")
        self._tags({f"tokenizer.{k}": str(event[k]) for k in ("vocab_size", "kind") if k in event})
        self._lineage("tokenizer", str(event["fingerprint"]))

    def _lineage(self, name: str, fingerprint: str) -> None:
        self.state.lineage[name] = fingerprint
        self._tags({f"{name}.fingerprint": fingerprint})

    def _artifact(self, event: dict[str, Any], offset: int) -> None:
        path = str(self.folder / event["path"])
        folder = event.get("artifact_path")
        self.client.log_artifact(self.run_id, path, folder)
        if event.get("table"):  # the tag by which MLflow's own log_table makes it a table
            name = "/".join([*([folder] if folder else []), Path(path).name])
            self._tags({"mlflow.loggedArtifacts": json.dumps([{"path": name, "type": "table"}])})

    def _drift(self, event: dict[str, Any], offset: int) -> None:
        found = "; ".join(event["findings"])
        self._tags({f"drift.{event['dataset']}": found or "passed"})

    def _checkpoint(self, event: dict[str, Any], offset: int) -> None:
        """A checkpoint is a model whose files stay where they are; its metrics are tied to it."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models.utils import get_external_mlflow_model_spec

        self.points.descent.refresh()
        if not self.points.descent.holds(event.get("attempt", 1), event["step"]):
            return  # a later attempt went on from an earlier one, and writes this step anew
        assert self.state.experiment_id is not None
        step, path = int(event["step"]), self.folder / event["path"]
        found = self.client.search_logged_models(
            [self.state.experiment_id],
            f"source_run_id = '{self.run_id}' AND tags.`{EVENT_TAG}` = '{offset}'",
        )
        if found:
            model = found[0]
        else:
            model = self.client.create_logged_model(
                self.state.experiment_id,
                name=re.sub(r"[^\w-]", "_", path.name),
                source_run_id=self.run_id,
                tags={EVENT_TAG: str(offset), EXTERNAL_TAG: "true", **self.state.lineage},
                params={
                    "step": str(step),
                    "path": str(path),
                    **{k: str(event[k]) for k in CHECKPOINT_FACTS if k in event},
                },
                model_type="checkpoint",
            )
        if model.status != LoggedModelStatus.READY:
            with tempfile.TemporaryDirectory() as scratch:
                # The file that lets a model without files of its own be registered.
                get_external_mlflow_model_spec(model).save(f"{scratch}/MLmodel")
                self.client.log_model_artifacts(model.model_id, scratch)
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        outputs = self.client.get_run(self.run_id).outputs
        linked = {output.model_id for output in outputs.model_outputs} if outputs else set()
        if model.model_id not in linked:
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
        self._log_metrics(self._model_metrics(event, step, model.model_id))
        self.state.models[str(offset)] = model.model_id

    def _model_metrics(self, event: dict[str, Any], step: int, model_id: str) -> "list[Metric]":
        """Metrics of a checkpoint, tied to it and to the dataset of their split.

        They carry the time they have in the journal: MLflow writes the metrics of a model into its
        run too, and sees only then that the run has these points already.
        """
        from mlflow.entities import Metric

        metrics = []
        for key, value in event.get("metrics", {}).items():
            time_ms = self.points.first_time(key, value, step)
            name, digest = self.datasets.of(key)
            metrics.append(
                Metric(
                    *Point(_key(key), value, time_ms or event["time_ms"], step),
                    model_id=model_id,
                    dataset_name=name,
                    dataset_digest=digest,
                )
            )
        return metrics

    def _draw(self, folder: Path) -> None:
        """Save the figures of the run; one that fails must not hold up the record."""
        from orchestrator.record.figures import training_figures

        folder.mkdir()
        try:
            for name, figure in training_figures(self.folder).items():
                figure.savefig(folder / f"{name}.png", dpi=150)
        except Exception:
            log.exception("no figures")


def _all_points(lines: list[dict[str, Any]]) -> list[Point]:
    """Every value of every line, as it is."""
    return [
        Point(key, value, line["time_ms"], line["step"])
        for line in lines
        for key, value in line["metrics"].items()
    ]


def _key(name: str) -> str:
    """A name with what MLflow allows in names of params, tags and metrics."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def _batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
