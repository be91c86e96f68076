"""The runs that a run goes on from: its parent in MLflow, and the beginning of its curves.

A resumed run is a folder of its own, and a run of its own in MLflow: the child of the one that it
goes on from, with the points of all its ancestors up to the step where each went on.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.record.checkpoints.cached import cache_entry
from orchestrator.record.lines import EVENTS, METRICS, read
from orchestrator.record.mlflow.points import CHUNK_BYTES, Point, Points

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "orchestrate.run"


def key_of(folder: Path) -> str:
    """The name of a run folder in the tags of MLflow, wherever its outputs are moved to."""
    return quote("/".join(folder.parts[-2:]))


def find_run(client: "MlflowClient", experiments: list[str], key: str) -> Any:
    """The MLflow run of a run folder, by its key. None: there is none."""
    found = client.search_runs(experiments, f"tags.`{RUN_TAG}` = '{key}'", max_results=1)
    return found[0] if found else None


def parent_of(folder: Path, event: dict[str, Any]) -> Path | None:
    """The run folder of the checkpoint of an event `resumed`. None: it is the run's own.

    A run in other outputs than those of `folder` has only a name: its files are not read, unless it
    was fetched to be gone on from.
    """
    checkpoint = (folder / str(event["path"])).resolve()
    parent = checkpoint.parents[1] if len(checkpoint.parents) > 1 else checkpoint
    return None if parent == folder.resolve() else parent


def _is_read(parent: Path, outputs: Path) -> bool:
    return parent.parents[1] == outputs or cache_entry(parent) is not None


def points_before(folder: Path, event: dict[str, Any]) -> Iterator[list[Point]]:
    """The points that led to the checkpoint of an event `resumed`, some at a time."""
    outputs, seen = folder.resolve().parents[1], {folder.resolve()}
    parent, step = parent_of(folder, event), int(event["step"])
    while parent is not None and parent not in seen and _is_read(parent, outputs):
        seen.add(parent)
        points, offset = Points(parent), 0
        while True:
            lines, offset = read(parent / METRICS, offset, CHUNK_BYTES)
            if not lines:
                break
            yield points.of([line for line in lines if line["step"] <= step])
        events, _ = read(parent / EVENTS)
        origins = [own for own in events if own["event"] == "resumed" and parent_of(parent, own)]
        step = min(step, int(origins[-1]["step"])) if origins else step
        parent = parent_of(parent, origins[-1]) if origins else None
