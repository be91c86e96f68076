"""One run of the store, written in calls within MLflow's limits."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from orchestrator.record.mlflow.points import Point

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

Item = TypeVar("Item")

METRICS_PER_CALL = 1000
TAGS_PER_CALL = 100  # for params too
PARAM_CHARACTERS, TAG_CHARACTERS = 6000, 5000
TABLES_TAG = "mlflow.loggedArtifacts"  # by which MLflow's own log_table makes a file a table


class Sink:
    """Where the record of one run goes; what is written twice is there once."""

    def __init__(self, client: "MlflowClient", run_id: str) -> None:
        """Nothing is written yet."""
        self.client, self.run_id = client, run_id

    def params(self, texts: Mapping[str, str]) -> None:
        """Write params. One can't change in MLflow, so a changed one becomes a tag."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        cut = {key(name): text[:PARAM_CHARACTERS] for name, text in texts.items()}
        params = [Param(name, text) for name, text in cut.items() if name not in known]
        for batch in _batches(params, TAGS_PER_CALL):
            self.client.log_batch(self.run_id, params=batch)
        self.tags({f"changed.{n}": text for n, text in cut.items() if known.get(n, text) != text})

    def tags(self, texts: Mapping[str, str]) -> None:
        """Write tags, over those of the same names."""
        from mlflow.entities import RunTag

        tags = [RunTag(key(name), text[:TAG_CHARACTERS]) for name, text in texts.items()]
        for batch in _batches(tags, TAGS_PER_CALL):
            self.client.log_batch(self.run_id, tags=batch)

    def points(self, points: Iterable[Point]) -> "list[list[Metric]]":
        """Points as batches for `metrics`."""
        from mlflow.entities import Metric

        metrics = [Metric(key(p.key), p.value, p.time_ms, p.step) for p in points]
        return list(_batches(metrics, METRICS_PER_CALL))

    def metrics(self, batch: "Sequence[Metric]") -> None:
        """Write at most METRICS_PER_CALL metrics."""
        self.client.log_batch(self.run_id, metrics=batch)

    def artifact(self, path: str, folder: str | None) -> None:
        """Write a file into a folder of the artifacts; None is the top."""
        self.client.log_artifact(self.run_id, path, folder)

    def table(self, name: str) -> None:
        """Show an artifact as a table, beside those that are shown already."""
        tables = json.loads(self.client.get_run(self.run_id).data.tags.get(TABLES_TAG, "[]"))
        entry = {"path": name, "type": "table"}
        if entry not in tables:
            self.tags({TABLES_TAG: json.dumps([*tables, entry])})


def key(name: str) -> str:
    """A name with what MLflow allows in names of params, tags and metrics."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def _batches(items: list[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
