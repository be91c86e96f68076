"""Models of MLflow that a run works on and did not make: where its weights come from."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.record.mlflow.history import find_run
from orchestrator.record.mlflow.points import Datasets, Point, Points
from orchestrator.record.mlflow.sink import Sink, key

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel


class Origins:
    """Ties a run to the models of the checkpoints that it started from or measured.

    A checkpoint is known by the hash of its manifest, so it is found wherever its folder has gone.
    One that this store has never seen leaves its hash in the tags of the run.
    """

    def __init__(self, sink: Sink, points: Points) -> None:
        """Nothing is tied yet."""
        self._sink, self._points = sink, points

    def link(self, event: dict[str, Any]) -> None:
        """Make the model of an event `weights` an input of the run."""
        self._sink.tags({f"weights.{event['role']}": str(event["manifest_sha256"])})
        self._input(event)

    def resumed(self, event: dict[str, Any], key: str) -> None:
        """Make the run of this key the parent of the run, and its checkpoint an input."""
        self._sink.tags({"resumed.manifest_sha256": str(event["manifest_sha256"])})
        found = (find_run(self._sink.client, ids, key) for ids in self._experiments())
        for parent in filter(None, found):
            self._sink.tags({"mlflow.parentRunId": parent.info.run_id})
        self._input(event)

    def _input(self, event: dict[str, Any]) -> None:
        from mlflow.entities import LoggedModelInput

        model = self._find(event)
        if model is not None:
            inputs = [LoggedModelInput(model.model_id)]
            self._sink.client.log_inputs(self._sink.run_id, models=inputs)

    def measured(self, event: dict[str, Any], datasets: Datasets) -> None:
        """Tie the metrics of an event `evaluated` to the model and to the datasets."""
        from mlflow.entities import Metric

        model = self._find(event)
        if model is None:
            return
        step, metrics = int(event["step"]), []
        times = self._points.first_times(step)  # with which the run has these points already
        for metric, value in event["metrics"].items():
            name, digest = datasets.of(metric)
            time_ms = times.get((metric, repr(value)), event["time_ms"])
            point = Point(key(metric), value, time_ms, step)
            metrics.append(
                Metric(
                    *point,
                    model_id=model.model_id,
                    dataset_name=name,
                    dataset_digest=digest,
                )
            )
        self._sink.metrics(metrics)

    def _find(self, event: dict[str, Any]) -> "LoggedModel | None":
        wanted = f"params.manifest_sha256 = '{event['manifest_sha256']}'"
        for ids in self._experiments():
            if found := self._sink.client.search_logged_models(ids, wanted, max_results=1):
                return found[0]
        return None

    def _experiments(self) -> Iterator[list[str]]:
        """The ids of all experiments, a page at a time."""
        page = None
        while True:
            experiments = self._sink.client.search_experiments(page_token=page)
            if experiments:
                yield [experiment.experiment_id for experiment in experiments]
            page = experiments.token
            if not page:
                return
