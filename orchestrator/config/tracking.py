"""Where the record of a run is mirrored to."""

from dataclasses import dataclass
from urllib.parse import urlsplit


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
        if self.uri is not None and urlsplit(self.uri).scheme in ("", "file"):
            raise ValueError(
                f"tracking.uri={self.uri} must be a database or a server, MLflow no longer writes "
                "to plain folders; try sqlite:////absolute/path/mlflow.db or http://host:5000"
            )
        if not self.experiment:
            raise ValueError("tracking.experiment must not be empty; try tracking.experiment=gpt")
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
