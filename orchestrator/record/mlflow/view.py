"""Pages of an experiment that answer which run won: columns, order and charts, best run first.

MLflow keeps a view that is shared in a tag of the experiment, as packed JSON; the page opens it by
its key. There is one for each stage, since stages are ranked by different metrics, and one for each
sweep, of its trials alone.

The page says above such a view that it is a shared one, in a line that can be closed: a plain link
carries filter and order, and columns and charts come by a view alone. MLflow's assistant opens
beside the first page that a browser ever sees of a server on this machine; once closed it stays so,
which only the browser remembers, no setting of the server or of the link.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from orchestrator.record.mlflow.description import Description
    from orchestrator.record.mlflow.mirror import State

TAG = "mlflow.sharedViewState."
PACKED = "deflate;"
RESULT = "result/"
"""Before the metric that ranks runs: its value for the weights that a run gives, which are the best
where the stage keeps those, and not always the last that were measured."""
OBJECTIVE = "objective/"
"""Before a metric that a sweep ranks its trials by."""
PARAMETERS = "model/parameters"
LOSS = "train/loss"
SECTION = "Comparison"
# Of columns, as MLflow's page calls them, and their widths in pixels; the others are as wide as
# the names over them need.
NAME, CREATED, DURATION = "attributes.`Run Name`", "runDateAndNestInfo", "duration"
SELECTED_DURATION = "attributes.`Duration`"
WIDTHS = {NAME: 460, CREATED: 150, DURATION: 90}
PIXELS_PER_LETTER, MARGIN, LEAST = 8, 32, 160


def put(client: "MlflowClient", state: "State", description: "Description") -> str | None:
    """Write the view of the run's stage to its experiment; returns its key, None if it has none."""
    score = description.score
    if score is None:
        return None
    found = ranking(
        description.stage,
        score["metric"],
        bool(score["lower_is_better"]),
        description.trained_on,
    )
    return _write(client, state, description.stage, found)


def put_sweep(
    client: "MlflowClient",
    state: "State",
    objectives: Sequence[tuple[str, str]],
    settings: Sequence[str],
) -> str | None:
    """Write the view of the trials of a sweep; returns its key.

    Args:
        client: of the store.
        state: of the sweep, whose run is there.
        objectives: metric, and `lower` or `higher`; the first one ranks.
        settings: names of those in which the trials differ.
    """
    view = trials(str(state.run_id), objectives, settings)
    return _write(client, state, f"sweep-{state.run_id}", view)


def _write(client: "MlflowClient", state: "State", key: str, view: Mapping[str, Any]) -> str | None:
    if state.experiment_id is None:
        return None
    name, text = f"{TAG}{key}", packed(view)
    if client.get_experiment(state.experiment_id).tags.get(name) != text:
        client.set_experiment_tag(state.experiment_id, name, text)
    return key


def packed(view: Mapping[str, Any]) -> str:
    """A view as MLflow's page writes one too: plain, its charts would not fit into a tag."""
    text = zlib.compress(json.dumps(view).encode())
    return f"{PACKED}{base64.b64encode(text).decode()}"


def ranking(
    stage: str, metric: str, lower_is_better: bool, trained_on: str | None
) -> dict[str, Any]:
    """The view of the runs of a stage, ranked by `metric`, as MLflow's page reads it.

    `trained_on` is what their steps count: tokens or examples. None: they train nothing.
    """
    columns, charts = [f"{RESULT}{metric}"], []
    if trained_on is not None:
        columns += [LOSS, f"train/{trained_on}"]
        axes = ("step", f"train/{trained_on}", "train/flops", "train/seconds")
        charts = [_chart(name, x) for name in (metric, LOSS) for x in axes]
    columns.append(PARAMETERS)
    return {
        "searchFilter": f"tags.stage = '{stage}'",
        "orderByKey": f"metrics.`{RESULT}{metric}`",
        "orderByAsc": lower_is_better,
        **_columns(f"metrics.`{name}`" for name in columns),
        **_charts(charts),
    }


def trials(
    run_id: str, objectives: Sequence[tuple[str, str]], settings: Sequence[str]
) -> dict[str, Any]:
    """The view of the trials that are nested in a run, best first, with what they differ in."""
    ranked = [f"{OBJECTIVE}{metric}" for metric, _ in objectives]
    lines = {
        "type": "PARALLEL",
        "uuid": "settings",
        "metricSectionId": SECTION,
        "selectedParams": list(settings),
        "selectedMetrics": ranked,
        "showAllRuns": True,
        "deleted": False,
        "isGenerated": False,
    }
    curves = [_chart(metric, "step") for metric, _ in objectives]
    columns = [f"metrics.`{name}`" for name in ranked] + [f"params.`{name}`" for name in settings]
    return {
        "searchFilter": f"tags.`mlflow.parentRunId` = '{run_id}'",
        "orderByKey": f"metrics.`{ranked[0]}`",
        "orderByAsc": objectives[0][1] == "lower",
        **_columns(columns),
        **_charts([lines, *curves, _chart(LOSS, "step")]),
    }


def _columns(names: Iterable[str]) -> dict[str, Any]:
    """The columns of a table in this order, between what a run is and when it was."""
    names = list(names)
    letters = {name: len(name.split("`")[1]) for name in names}
    widths = {name: max(LEAST, MARGIN + PIXELS_PER_LETTER * own) for name, own in letters.items()}
    return {
        "selectedColumns": [*names, SELECTED_DURATION],
        "columnOrder": [NAME, *names, DURATION, CREATED],
        "columnWidths": {**widths, **WIDTHS},
    }


def _charts(charts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Charts as the first section; MLflow puts one for each other metric below."""
    section = {"uuid": SECTION, "name": SECTION, "display": True, "isReordered": True}
    return {
        "compareRunCharts": list(charts),
        "compareRunSections": [section],
        "isAccordionReordered": True,
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
