"""Where the record of a run is mirrored to."""

from dataclasses import dataclass
from importlib.metadata import entry_points

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
REMEDY = "try sqlite:////absolute/path/mlflow.db or http://host:5000"


@dataclass
class TrackingConfig:
    """Where the record of a run is mirrored to."""

    enabled: bool = True
    """False: nothing is sent; the run folder can be sent later."""
    uri: str | None = None
    """sqlite:///file or http(s)://server. None: mlflow.db in the outputs folder."""
    experiment: str = "default"
    """Name of the MLflow experiment; it is created when it is missing."""
    name: str | None = None
    """Name of the MLflow run. None: the name of the run folder."""
    system_metrics: bool = True
    """Record CPU, memory, disk, network and GPU use of the driver's host every 10 seconds."""
    flush_seconds: float = 5
    """Seconds between two looks at the journal."""
    finish_timeout_seconds: float = 30
    """Seconds a finished job waits for the rest to be sent."""

    def __post_init__(self) -> None:
        """Check the address and that times are positive."""
        if self.uri:
            check_uri("tracking.uri", self.uri)
        if not self.experiment:
            raise ValueError("tracking.experiment must not be empty; try tracking.experiment=gpt")
        for setting in ("flush_seconds", "finish_timeout_seconds"):
            if getattr(self, setting) <= 0:
                raise ValueError(
                    f"tracking.{setting}={getattr(self, setting)} must be greater than 0; try 5"
                )


def check_uri(setting: str, uri: str) -> None:
    """Raise ValueError unless `uri` is the address of a database or server that MLflow knows."""
    scheme, separator, rest = uri.partition(":")
    if scheme.partition("+")[0] == "sqlite":
        if not rest.startswith("///") or not rest.strip("/"):
            raise ValueError(f"{setting}={uri} needs three slashes and a path; {REMEDY}")
    elif scheme.partition("+")[0] in (*DATABASES, "http", "https"):
        if not rest.startswith("//") or not rest.strip("/"):
            raise ValueError(f"{setting}={uri} needs two slashes and a host; {REMEDY}")
    elif scheme not in ("databricks", *_plugins()):
        why = "MLflow no longer writes to plain folders" if scheme in ("file", uri) else ""
        if separator and rest.split("/")[0].isdigit():
            raise ValueError(f"{setting}={uri} has no http:// in front; try {setting}=http://{uri}")
        raise ValueError(
            f"{setting}={uri} must be a database or a server{', ' * bool(why)}{why}; {REMEDY}"
        )


def _plugins() -> list[str]:
    """Kinds of addresses that installed packages add to MLflow."""
    return [point.name for point in entry_points(group="mlflow.tracking_store")]
