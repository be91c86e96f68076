"""A checkpoint as a model of MLflow, with the metrics that were measured on it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.record.lines import EVENTS, read
from orchestrator.record.mlflow.mirror import State, scratch
from orchestrator.record.mlflow.naming import checkpoint_name
from orchestrator.record.mlflow.points import Datasets, Point, Points
from orchestrator.record.mlflow.sink import Sink, key

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric

EVENT_TAG = "orchestrate.event"
EXTERNAL_TAG = "mlflow.model.isExternal"
CHECKPOINT_FACTS = (
    "manifest_sha256", "bytes", "data_cursor", "data_multiset", "data_skipped_sequences",
)  # fmt: skip


class CheckpointModels:
    """Sends the checkpoints of one run; their files stay where they are."""

    def __init__(self, folder: Path, state: State, sink: Sink, points: Points) -> None:
        """Nothing is sent yet."""
        self.folder, self.state, self.sink, self.points = folder, state, sink, points

    def send(self, event: dict[str, Any], offset: int, datasets: Datasets) -> None:
        """Send the checkpoint of an event, which begins at byte `offset` of the journal.

        Each part is looked for before it is made, so a call that was cut short can be repeated.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models.utils import get_external_mlflow_model_spec

        client, step = self.sink.client, int(event["step"])
        model = self._find(offset) or self._create(event, offset)
        if model.status != LoggedModelStatus.READY:
            with scratch(self.folder) as place:
                # The file that lets a model without files of its own be registered.
                get_external_mlflow_model_spec(model).save(str(place / "MLmodel"))
                client.log_model_artifacts(model.model_id, str(place))
            client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        outputs = client.get_run(self.sink.run_id).outputs
        linked = {output.model_id for output in outputs.model_outputs} if outputs else set()
        if model.model_id not in linked:
            client.log_outputs(self.sink.run_id, [LoggedModelOutput(model.model_id, step)])
        self.sink.metrics(self._metrics(event, step, model.model_id, datasets))
        self.state.models[str(offset)] = model.model_id

    def forget_gone(self) -> None:
        """Take models off the list whose checkpoint is not there any more, or led nowhere.

        A run keeps its newest checkpoints only, and MLflow would offer the others for ever. Their
        metrics stay in the run.
        """
        from mlflow.exceptions import MlflowException

        for offset, model_id in list(self.state.models.items()):
            (event,), _ = read(self.folder / EVENTS, int(offset), max_bytes=1)
            if self.is_current(event):
                continue
            try:
                self.sink.client.delete_logged_model(model_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # an earlier sender did it
                    raise
            del self.state.models[offset]

    def is_current(self, event: dict[str, Any]) -> bool:
        """Whether the checkpoint of an event is there, and no later attempt has passed it over."""
        # The folder of the run may have been moved since, its checkpoints with it.
        here = self.folder / "checkpoints" / Path(event["path"]).name
        return (here.exists() or (self.folder / event["path"]).exists()) and (
            self.points.descent.holds(event.get("attempt", 1), int(event["step"]))
        )

    def _find(self, offset: int) -> "LoggedModel | None":
        found = self.sink.client.search_logged_models(
            [str(self.state.experiment_id)],
            f"source_run_id = '{self.sink.run_id}' AND tags.`{EVENT_TAG}` = '{offset}'",
        )
        return found[0] if found else None

    def _create(self, event: dict[str, Any], offset: int) -> "LoggedModel":
        path = self.folder / event["path"]
        return self.sink.client.create_logged_model(
            str(self.state.experiment_id),
            name=checkpoint_name(str(path), int(event["step"])),
            source_run_id=self.sink.run_id,
            tags={EVENT_TAG: str(offset), EXTERNAL_TAG: "true", **self.state.lineage},
            params={
                "step": str(event["step"]),
                "path": str(path.resolve().relative_to(self.folder.resolve().parents[1])),
                **{k: str(event[k]) for k in CHECKPOINT_FACTS if k in event},
            },
            model_type="checkpoint",
        )

    def _metrics(
        self, event: dict[str, Any], step: int, model_id: str, datasets: Datasets
    ) -> "list[Metric]":
        """Metrics of a checkpoint, tied to it and to the dataset they were measured on.

        They carry the time they have in the journal: MLflow writes the metrics of a model into its
        run too, and sees only then that the run has these points already.
        """
        from mlflow.entities import Metric

        metrics, times = [], self.points.first_times(step)
        for metric, value in event.get("metrics", {}).items():
            time_ms = times.get((metric, repr(value)), event["time_ms"])
            name, digest = datasets.of(metric)
            metrics.append(
                Metric(
                    *Point(key(metric), value, time_ms, step),
                    model_id=model_id,
                    dataset_name=name,
                    dataset_digest=digest,
                )
            )
        return metrics


def models_by_path(folder: Path, state: State) -> dict[str, str]:
    """The models of the checkpoints that are there, by paths from the run folder on."""
    found = {}
    for offset, model_id in state.models.items():
        (event,), _ = read(folder / EVENTS, int(offset), max_bytes=1)
        found[str(event["path"])] = model_id
    return found
