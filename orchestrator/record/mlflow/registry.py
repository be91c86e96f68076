"""The model registry: what each run gives as a version, and by aliases which one to take.

Runs whose results can be compared share a registered model: those of one stage that are measured by
one metric on one set of held-out data. Its alias `candidate` is the newest version, `champion` the
best. `models:/NAME@champion` is how MLflow's clients call it.
"""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.record.mlflow.checkpoints import models_by_path
from orchestrator.record.mlflow.description import Description
from orchestrator.record.mlflow.mirror import State

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

log = logging.getLogger("tracking")

CHAMPION, CANDIDATE = "champion", "candidate"
SCORE_TAG, CHECKPOINT_TAG = "score", "checkpoint"
FINGERPRINT_CHARACTERS = 6
NAME_CHARACTERS = 200
# Of a registry that others may write to: it is not ours to change, or is none.
NOT_OURS = (
    "PERMISSION_DENIED",
    "INVALID_PARAMETER_VALUE",
    "FEATURE_DISABLED",
    "ENDPOINT_NOT_FOUND",
)


@dataclass(frozen=True)
class Result:
    """What a run gives."""

    run_id: str
    model_id: str
    """Of the checkpoint's model in MLflow."""
    checkpoint: str
    """Path from the run folder on."""
    metric: str
    value: float
    lower_is_better: bool


def register(client: "MlflowClient", folder: Path, state: State) -> None:
    """Make what a run gives a version, once; it becomes the candidate, and champion if it is best.

    A run that failed, measured nothing or keeps no checkpoint gives nothing. A registry that
    refuses us is left alone: its models are not what a run is about.

    Raises:
        MlflowException: the store is away.
    """
    from mlflow.exceptions import MlflowException

    description = Description(folder)
    result = result_of(description, state, models_by_path(folder, state))
    if result is None:
        return
    name = name_of(description.stage, result.metric, state.lineage)
    try:
        _register(client, name, result, on_server=state.tracking_uri.startswith("http"))
    except MlflowException as error:
        if error.error_code not in NOT_OURS:
            raise
        log.warning("not registered as %s: %s", name, error)


def result_of(description: Description, state: State, models: dict[str, str]) -> Result | None:
    """What a run gives. None: nothing; `models` has those of its checkpoints by their paths."""
    result, score = description.result, description.score
    if score is None or result.get("status") != "done" or not description.trained_on:
        return None
    best = result.get("best") or result
    value = result.get("metrics", {}).get(score["metric"])
    model_id = models.get(str(best.get("checkpoint")))
    if value is None or model_id is None:
        return None
    return Result(
        str(state.run_id),
        model_id,
        str(best["checkpoint"]),
        str(score["metric"]),
        float(value),
        bool(score["lower_is_better"]),
    )


def name_of(stage: str, metric: str, lineage: dict[str, str]) -> str:
    """Of the registered model: stage, and the data that the metric is measured on.

    `lineage` has the fingerprints of the run's datasets, as `dataset.validation`.
    """
    split = metric.partition("/")[0]
    parts = {key: value for key, value in lineage.items() if key.startswith("dataset.")}
    held_out = sorted(value for key, value in parts.items() if key.endswith(f".{split}"))
    marks = "-".join(value[:FINGERPRINT_CHARACTERS] for value in held_out)
    return re.sub(r"[^\w-]", "_", "-".join(filter(None, (stage, marks))))[:NAME_CHARACTERS]


def _register(client: "MlflowClient", name: str, result: Result, *, on_server: bool) -> None:
    own = client.search_model_versions(f"name = '{name}' AND run_id = '{result.run_id}'")
    number = str(own[0].version) if own else _new_version(client, name, result, on_server)
    candidate, champion = (_holder(client, name, alias) for alias in (CANDIDATE, CHAMPION))
    if candidate is None or int(candidate.version) < int(number):
        client.set_registered_model_alias(name, CANDIDATE, number)
    if champion is None or _beats(result, champion):
        client.set_registered_model_alias(name, CHAMPION, number)


def _new_version(client: "MlflowClient", name: str, result: Result, on_server: bool) -> str:
    """Make the version, and the model if it is the first one; returns its number."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description=_about(result))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    # A server looks a model up in its own store; of a database MLflow's client would look in
    # whichever store this process has named last.
    source = f"models:/{result.model_id}"
    if not on_server:
        source = str(client.get_logged_model(result.model_id).artifact_location)
    version = client.create_model_version(
        name,
        source,
        run_id=result.run_id,
        tags={SCORE_TAG: repr(result.value), CHECKPOINT_TAG: result.checkpoint},
        description=f"{result.value:.4g} {result.metric}",
        model_id=result.model_id,
    )
    return str(version.version)


def _about(result: Result) -> str:
    direction = "lower" if result.lower_is_better else "higher"
    return (
        f"Ranked by {result.metric}, {direction} is better: `{CHAMPION}` is the best version, "
        f"`{CANDIDATE}` the newest."
    )


def _holder(client: "MlflowClient", name: str, alias: str) -> "ModelVersion | None":
    """The version of an alias. None: nobody holds it yet."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code not in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            raise
        return None


def _beats(result: Result, champion: "ModelVersion") -> bool:
    """Whether the result is better; a version without a score that somebody else made stays."""
    try:
        held = float(champion.tags[SCORE_TAG])
    except (KeyError, ValueError):
        return False
    return result.value < held if result.lower_is_better else result.value > held
