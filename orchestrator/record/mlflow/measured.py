"""What MLflow has of the runs of an experiment: their last metrics, for who compares them."""

from dataclasses import dataclass

from data.addresses import public
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.sqlite import sqlite_path

PAGE = 500  # runs of one call


@dataclass(frozen=True)
class Measured:
    """A run as MLflow has it."""

    id: str
    """Of its run folder, if it has one, else MLflow's."""
    status: str
    """FINISHED, FAILED, KILLED, RUNNING or SCHEDULED."""
    metrics: dict[str, float]
    """The last value of each."""
    tags: dict[str, str]


def measured(state: State, where: str | None) -> list[Measured]:
    """The runs of an experiment, oldest first, in MLflow's own words for which.

    Args:
        state: says the store and the experiment.
        where: a filter of MLflow's, such as `tags.stage = 'pretrain'`. None: all.

    Raises:
        ValueError: there is no such store or experiment, or the filter can't be read.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    database = sqlite_path(state.tracking_uri)
    if database is not None and not database.exists():
        raise ValueError(
            f"mlflow:{state.experiment}: there is no {database}; name the store in "
            "MLFLOW_TRACKING_URI, or type this where outputs/ is"
        )
    client = MlflowClient(state.tracking_uri)
    try:
        experiment = client.get_experiment_by_name(state.experiment)
        if experiment is None:
            known = ", ".join(sorted(own.name for own in client.search_experiments()))
            raise ValueError(
                f"mlflow:{state.experiment}: {public(state.tracking_uri)} has no such experiment; "
                f"it has {known}"
            )
        found, token = [], None
        while True:
            page = client.search_runs(
                [experiment.experiment_id],
                where or "",
                max_results=PAGE,
                order_by=["attributes.start_time"],
                page_token=token,
            )
            found += list(page)
            token = page.token
            if not token:
                break
    except MlflowException as error:
        raise ValueError(f"mlflow:{state.experiment}: {str(error).splitlines()[0]}") from None
    return [
        Measured(
            str(run.data.tags.get("run", run.info.run_id)).rpartition("-")[2],
            str(run.info.status),
            dict(run.data.metrics),
            dict(run.data.tags),
        )
        for run in found
    ]
