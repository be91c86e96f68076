"""The page of an experiment that answers which run won: columns, order and charts, best run first.

MLflow keeps a view that is shared in a tag of the experiment, as JSON; the page opens it by its
key. There is one for each stage, since stages are ranked by different metrics.
"""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from orchestrator.record.mlflow.description import Description
    from orchestrator.record.mlflow.mirror import State

TAG = "mlflow.sharedViewState."
# Beside the metric of the ranking; few, or that one is out of sight: the page sorts them itself.
COLUMNS = ("attributes.`Duration`", "attributes.`Source`", "metrics.`train/loss`")
SECTION = "Comparison"  # the page sorts sections by name, and this is to be the first
X_AXES = ("step", "train/tokens", "train/examples", "train/flops", "train/seconds")


def put(client: "MlflowClient", state: "State", description: "Description") -> str | None:
    """Write the view of the run's stage to its experiment; returns its key, None if it has none."""
    score = description.score
    if score is None or state.experiment_id is None:
        return None
    name = f"{TAG}{description.stage}"
    text = json.dumps(ranking(score["metric"], bool(score["lower_is_better"])))
    if client.get_experiment(state.experiment_id).tags.get(name) != text:
        client.set_experiment_tag(state.experiment_id, name, text)
    return description.stage


def ranking(metric: str, lower_is_better: bool) -> dict[str, Any]:
    """The view of runs that are ranked by `metric`, as MLflow's page reads it."""
    charts = [_chart(name, x) for name in ("train/loss", metric) for x in X_AXES]
    return {
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": lower_is_better,
        "selectedColumns": [f"metrics.`{metric}`", *COLUMNS],
        "compareRunCharts": charts,
        "compareRunSections": [
            {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": False}
        ],
        "hideEmptyCharts": True,
    }


def _chart(metric: str, x: str) -> dict[str, Any]:
    """Curves of a metric over the step or over another metric that grows with it."""
    over_steps = x == "step"
    return {
        "type": "LINE",
        "uuid": f"{metric} over {x}",
        "metricSectionId": SECTION,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": f"{metric} over {x.rpartition('/')[2]}",
        "xAxisKey": "step" if over_steps else "metric",
        "selectedXAxisMetricKey": "" if over_steps else x,
        "useGlobalXaxisKey": False,
        "useGlobalLineSmoothing": True,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "runsCountToCompare": 10,
        "deleted": False,
        "isGenerated": False,
    }
