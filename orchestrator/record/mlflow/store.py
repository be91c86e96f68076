"""The MLflow store a run is sent to, and MLflow's monitors of this host."""

import fcntl
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from orchestrator.record.clock import Clock
from orchestrator.record.lines import LineFile, last_line
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.sqlite import sqlite_path, sqlite_url

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"  # beside a SQLite store
ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
SYSTEM = "system.jsonl"  # written by the mirror, sent like metrics.jsonl
SYSTEM_SECONDS = 10.0
FIRST_EXPERIMENT = "0"  # that MLflow makes with each new store
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development"
}  # else the UI expects agents


def connect(state: State) -> "MlflowClient":
    """A client of the store; a SQLite store that is not there is made.

    Several jobs may come first at once, and one may be killed on the way: the tables are made in a
    file beside it, under a lock, and the whole file is renamed.
    """
    from mlflow import MlflowClient

    if database := sqlite_path(state.tracking_uri):
        database.parent.mkdir(parents=True, exist_ok=True)
        with locked(database.with_name(f"{database.name}.lock")):
            if not database.exists():
                from mlflow.entities import ExperimentTag
                from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

                partial = database.with_name(f"{database.name}.partial")
                partial.unlink(missing_ok=True)
                kind: Any = SqlAlchemyStore  # untyped, as are the monitors below
                store = kind(sqlite_url(partial), state.artifact_root)
                # The one that MLflow makes would stand empty beside the first of ours.
                store.rename_experiment(FIRST_EXPERIMENT, state.experiment)
                for name, value in EXPERIMENT_TAGS.items():
                    store.set_experiment_tag(FIRST_EXPERIMENT, ExperimentTag(name, value))
                store.engine.dispose()
                partial.rename(database)
            settle(database)
    return MlflowClient(state.tracking_uri)


def settle(database: Path) -> None:
    """Let the addresses of artifacts lead to the folder beside a SQLite store.

    MLflow keeps them whole, and outputs are moved and copied.

    Raises:
        sqlite3.OperationalError: they lead elsewhere, and the store can't be written to.
    """
    here, name = (database.resolve().parent / ARTIFACTS).as_uri(), f"/{ARTIFACTS}/"
    with closing(sqlite3.connect(database)) as store, store:
        tables = {row[0] for row in store.execute("SELECT name FROM sqlite_master")}
        for table, column in ADDRESSES:
            if table not in tables:  # of an older version of MLflow
                continue
            select = f"SELECT DISTINCT {column} FROM {table} WHERE instr({column}, ?)"
            for (address,) in store.execute(select, (name,)).fetchall():
                right = f"{here}/{address.partition(name)[2]}"
                if address != right:
                    change = f"UPDATE {table} SET {column} = ? WHERE {column} = ?"
                    store.execute(change, (right, address))


def experiment_id(client: "MlflowClient", state: State) -> str:
    """Id of the experiment, created when it is missing."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(state.experiment)
    if found is None:
        root = state.artifact_root and f"{state.artifact_root}/{quote(state.experiment, safe='')}"
        try:
            return str(client.create_experiment(state.experiment, root, tags=EXPERIMENT_TAGS))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(state.experiment)  # another job was faster
    assert found is not None
    return str(found.experiment_id)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the system lets go of it when the process dies."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class SystemMetrics:
    """MLflow's own monitors of this host, written to a journal of their own.

    Not MLflow's SystemMetricsMonitor: that one sends by itself and stops at the first error.
    """

    def __init__(self, folder: Path) -> None:
        """Start the monitors; GPUs are watched where NVML finds them."""
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self.monitors: list[Any] = []
        kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor]
        for kind in kinds:
            with suppress(Exception):  # a host without it: no GPU, no driver, no NVML, no network
                monitor = kind()
                monitor.collect_metrics()  # the first reading of the CPU is 0
                monitor.clear_metrics()
                self.monitors.append(monitor)
        last = last_line(folder / SYSTEM)
        self.step = last["step"] + 1 if last else 0
        self.clock = Clock(last["time_ms"] if last else 0)
        self.file = LineFile(folder / SYSTEM)
        self.due = time.monotonic() + SYSTEM_SECONDS

    def sample(self) -> None:
        """Write one line when one is due."""
        if time.monotonic() < self.due:
            return
        self.due += SYSTEM_SECONDS
        metrics = {}
        for monitor in self.monitors:
            with suppress(Exception):  # a device that fell off the bus must not hold up the record
                monitor.collect_metrics()
                metrics.update(monitor.aggregate_metrics())
                monitor.clear_metrics()
        values = {f"system/{name}": value for name, value in metrics.items()}
        line = {"time_ms": self.clock.now_ms(), "attempt": 1, "step": self.step, "metrics": values}
        self.file.append(line)
        self.step += 1
