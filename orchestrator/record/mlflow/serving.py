"""MLflow's own server on a store; `python -m orchestrator.record.mlflow.serving`, as a daemon.

The daemon makes the store first, where there is none, and then becomes the server.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow.mirror import ENVIRONMENT, new_state
from orchestrator.record.mlflow.sqlite import sqlite_path
from orchestrator.record.mlflow.store import ARTIFACTS, connect, experiment_id

QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "UVICORN_LOG_LEVEL": "warning"}


def server(uri: str, host: str, port: int) -> tuple[list[str], dict[str, str]]:
    """The command that serves a store, and what it needs in its environment."""
    command = [sys.executable, "-m", "mlflow", "server"]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    if database := sqlite_path(uri):
        artifacts = database.parent / ARTIFACTS
        command += ["--default-artifact-root", artifacts.as_uri(), "--no-serve-artifacts"]
    # The address may have a password, and everybody can read the arguments of a process.
    return command, {**ENVIRONMENT, **QUIET, "MLFLOW_BACKEND_STORE_URI": uri}


def main(arguments: Sequence[str]) -> None:
    """Serve the store of an outputs folder: OUTPUTS HOST PORT."""
    outputs, host, port = Path(arguments[0]), arguments[1], int(arguments[2])
    state = new_state(TrackingConfig(), outputs)
    experiment_id(connect(state), state)
    command, environment = server(state.tracking_uri, host, port)
    os.execve(command[0], command, {**os.environ, **environment})


if __name__ == "__main__":
    main(sys.argv[1:])
