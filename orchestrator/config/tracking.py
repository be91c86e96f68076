"""Where the record of a run is mirrored to."""

import os
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from data.files import expand_home

SERVERS, DATABASES = ("http", "https"), ("sqlite", "postgresql", "mysql", "mssql")
SQLITE = "sqlite:///"
DEFAULT_EXPERIMENT = "default"
LONGEST_NAME = 500  # characters, MLflow's own bound


@dataclass
class TrackingConfig:
    """Where the record of a run is mirrored to.

    What is not set is taken from MLflow's own variables, as every MLflow client does; user,
    password and token always are: MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN.
    """

    enabled: bool = True
    """False: nothing is sent; the run folder can be sent later."""
    uri: str | None = None
    """sqlite:////absolute/file, http(s)://server or another database that MLflow knows.
    None: MLFLOW_TRACKING_URI, else mlflow.db in the outputs folder."""
    experiment: str | None = None
    """Name of the MLflow experiment; it is created when it is missing.
    None: MLFLOW_EXPERIMENT_NAME, else `default`."""
    name: str | None = None
    """Name of the MLflow run. None: stage, model, data and what was typed besides."""
    system_metrics: bool = True
    """Record CPU, memory, disk, network and GPU use of the driver's host every 10 seconds."""
    flush_seconds: float = 5
    """Seconds between two looks at the journal."""
    finish_timeout_seconds: float = 30
    """Seconds a finished job waits for the rest to be sent."""

    def __post_init__(self) -> None:
        """Check address, name and times; where nothing is sent, those of the environment aren't."""
        if self.uri is not None:
            if self.uri.startswith(SQLITE):
                file = expand_home("tracking.uri", self.uri.removeprefix(SQLITE))
                self.uri = f"{SQLITE}{file}"
            _check_address("tracking.uri", self.uri)
        elif self.enabled and self.address is not None:
            _check_address("MLFLOW_TRACKING_URI", self.address)
        if self.experiment == "":
            raise ValueError("tracking.experiment must not be empty; try tracking.experiment=gpt")
        if len(self.experiment_name) > LONGEST_NAME:
            raise ValueError(
                f"tracking.experiment (or MLFLOW_EXPERIMENT_NAME)={self.experiment_name[:40]}... "
                f"has {len(self.experiment_name)} characters, MLflow takes {LONGEST_NAME}; "
                "shorten it"
            )
        for setting in ("flush_seconds", "finish_timeout_seconds"):
            if getattr(self, setting) <= 0:
                raise ValueError(
                    f"tracking.{setting}={getattr(self, setting)} must be greater than 0; try 5"
                )

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        if not self.enabled:
            return {"system_metrics": "they are sent while the job runs; try tracking=mlflow"}
        return {}

    @property
    def address(self) -> str | None:
        """Of the store, as asked for here or by the environment. None: the outputs folder's own."""
        return self.uri or os.environ.get("MLFLOW_TRACKING_URI") or None

    @property
    def experiment_name(self) -> str:
        """Of the experiment, as asked for here or by the environment."""
        return self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_EXPERIMENT


def _check_address(setting: str, uri: str) -> None:
    """Raise ValueError for what MLflow can't write to, with what was probably meant."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port  # a port that is no number raises
    except ValueError as error:
        raise ValueError(f"{setting}={uri} is no address: {error}; {_EXAMPLES}") from None
    kind = parts.scheme.partition("+")[0]
    if kind == "databricks" or uri == "databricks":
        return
    if kind in SERVERS:
        if not host:
            raise ValueError(f"{setting}={uri} names no host; {_EXAMPLES}")
    elif kind == "sqlite":
        if not uri.startswith(f"{parts.scheme}:///") or len(parts.path) < 2:
            file = uri.partition(":")[2].lstrip("/") or "mlflow.db"
            raise ValueError(
                f"{setting}={uri} must have three slashes before a file, four before an absolute "
                f"path; try {parts.scheme}:///{file}"
            )
    elif kind in DATABASES:
        if not host and not parts.query:
            raise ValueError(f"{setting}={uri} names no host; try {kind}://user@host/mlflow")
    elif re.fullmatch(r"[\w.-]+:\d+(/.*)?", uri):
        raise ValueError(f"{setting}={uri} lacks http:// before the host; try http://{uri}")
    elif kind in ("", "file"):
        raise ValueError(
            f"{setting}={uri} must be a database or a server, MLflow no longer writes to plain "
            f"folders; {_EXAMPLES}"
        )
    else:
        raise ValueError(
            f"{setting}={uri} begins with {parts.scheme}:, which must be one of "
            f"{', '.join((*SERVERS, *DATABASES))}; {_EXAMPLES}"
        )


_EXAMPLES = "try sqlite:////absolute/path/mlflow.db or http://host:5000"
