"""Where a record goes: by settings, by MLflow's own variables, and what is refused."""

import pytest

from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow.mirror import new_state, place


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"uri": "mlruns"}, "tracking.uri=mlruns must be a database or a server"),
        ({"uri": "file:///tmp/x"}, "tracking.uri=file"),
        (
            {"uri": "localhost:5000"},
            "uri=localhost:5000 lacks http://.*; try http://localhost:5000",
        ),
        ({"uri": "127.0.0.1:5000"}, "try http://127.0.0.1:5000"),
        ({"uri": "htp://127.0.0.1:5000"}, "begins with htp:, which must be one of http, https"),
        ({"uri": "http://"}, "tracking.uri=http:// names no host"),
        ({"uri": "http://host:port"}, "tracking.uri=http://host:port is no address: Port"),
        ({"uri": "sqlite://mlflow.db"}, "three slashes before a file.*; try sqlite:///mlflow.db"),
        ({"uri": "sqlite:mlflow.db"}, "try sqlite:///mlflow.db"),
        ({"uri": "sqlite:///"}, "try sqlite:///mlflow.db"),
        ({"experiment": "e" * 501}, "has 501 characters, MLflow takes 500"),
        ({"flush_seconds": 0}, "tracking.flush_seconds=0 must be greater than 0"),
        ({"finish_timeout_seconds": -1}, "tracking.finish_timeout_seconds=-1"),
        ({"experiment": ""}, "tracking.experiment must not be empty"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_do(settings, words):
    with pytest.raises(ValueError, match=words):
        TrackingConfig(**settings)


@pytest.mark.parametrize(
    "uri", ["http://h:5000", "sqlite:////a/b c/x.db", "postgresql+psycopg://u:p@h/m", "databricks"]
)
def test_addresses_that_mlflow_knows_are_taken(uri):
    assert TrackingConfig(uri=uri).address == uri


def test_what_is_not_set_is_taken_from_the_variables_of_mlflow(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    state = new_state(TrackingConfig(), tmp_path)
    assert (state.tracking_uri, state.experiment) == ("http://host:5000", "theirs")
    assert place(TrackingConfig(), tmp_path) == "MLflow experiment theirs at http://host:5000"
    state = new_state(TrackingConfig(uri="sqlite:////a.db", experiment="ours"), tmp_path)
    assert (state.tracking_uri, state.experiment) == ("sqlite:////a.db", "ours")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "host:5000")
    with pytest.raises(ValueError, match=r"^MLFLOW_TRACKING_URI=host:5000 lacks http://"):
        TrackingConfig()
    assert place(TrackingConfig(enabled=False), tmp_path) == "the run folder alone"
