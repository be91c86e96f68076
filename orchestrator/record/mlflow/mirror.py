"""The mirror of a job, as its driver sees it: settings, state, and a process to start and finish.

The process itself is `python -m orchestrator.record.mlflow`. Nothing here imports
mlflow, waits for it, or fails because of it.
"""

import contextlib
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from urllib.parse import quote

from data.addresses import hide, public
from data.files import DataError, read_json
from orchestrator.config import TrackingConfig
from orchestrator.record import lines
from orchestrator.record.mlflow.sqlite import absolute, moved, sqlite_path, sqlite_url
from orchestrator.record.redaction import KEPT

STATE = "mlflow.json"
BACK = "../../"  # from a run folder to the outputs folder
SENDER = "orchestrator.record.mlflow"
LOG = "logs/tracking.log"  # output of the mirror; its lock, too
SCRATCH = ".sending"
TRAINING_MODE = "workflowType=machine_learning"  # else the UI shows what agents need
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # The mirror retries by itself: a call to a dead server must come back soon.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


@dataclass
class State:
    """mlflow.json: where a run folder is sent and how far that got."""

    tracking_uri: str
    artifact_root: str | None
    """Folder of the artifacts. None: the server at `tracking_uri` decides."""
    experiment: str
    name: str | None
    """Of the run. None: what its folder tells, see `Description.name`."""
    system_metrics: bool
    flush_seconds: float
    finish_timeout_seconds: float
    experiment_id: str | None = None
    run_id: str | None = None
    offsets: dict[str, int] = field(default_factory=dict)
    """Bytes of each journal file that MLflow has."""
    constant: dict[str, str | None] = field(default_factory=dict)
    """Series -> the only value it had so far. None: it has changed, see `constants.py`."""
    models: dict[str, str] = field(default_factory=dict)
    """Byte offset of a checkpoint event -> id of its MLflow model."""
    lineage: dict[str, str] = field(default_factory=dict)
    """Fingerprints of datasets and tokenizer, put on each model."""
    status: str | None = None
    """Status of the "finished" event. None: the job has not said that it ended."""
    view: str | None = None
    """Key of the view of the experiment that ranks the runs of this stage, see `view.py`."""
    trouble: str | None = None
    """Why the last try to send failed. None: it did not."""
    refused: list[str] = field(default_factory=list)
    """What MLflow will never accept, and why; it stays in the run folder only."""
    parent: str | None = None
    """Key of the sweep that the run is a trial of. None: it is none."""
    driver: str | None = None
    """The process that writes the journal, see `process_name`. None: no mirror was started."""
    done: bool = False
    """The job ended and all of it was sent."""

    @staticmethod
    def load(folder: Path) -> "State | None":
        """The state of a run folder. None: it was never tracked, or a power cut took the file.

        What it said is then found again: sending a run folder anew doubles nothing.
        """
        try:
            written = read_json(folder / STATE)
            state = State(**{f.name: written[f.name] for f in fields(State) if f.name in written})
        except (DataError, TypeError):
            return None
        return _with_addresses(state, BACK, str(folder.resolve().parents[1]) + "/")

    def save(self, folder: Path) -> None:
        """Replace mlflow.json; only its owner may read one with a secret, as in the address.

        Addresses inside the outputs folder are kept from the run folder on: outputs are moved.
        """
        kept = _with_addresses(self, str(folder.resolve().parents[1]) + "/", BACK)
        private = hide(self.tracking_uri) != self.tracking_uri or (folder / KEPT).exists()
        partial = folder / f"{STATE}.partial"
        partial.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(partial, flags, 0o600 if private else 0o644), "w") as file:
            json.dump(asdict(kept), file, indent=1)
        partial.replace(folder / STATE)

    def resumed(self, previous: "State | None") -> "State":
        """These settings with the progress of `previous`, if that was sent to the same place."""
        place = ("tracking_uri", "experiment")
        if previous is None or any(getattr(self, n) != getattr(previous, n) for n in place):
            return self
        progress = ("experiment_id", "run_id", "offsets", "constant", "models")
        kept = {name: getattr(previous, name) for name in (*progress, "lineage", "refused")}
        return replace(self, **kept)

    @property
    def page(self) -> str:
        """Path of the run, or of all experiments before there is a run, in the MLflow UI."""
        run = f"/{self.experiment_id}/runs/{self.run_id}" if self.run_id else ""
        return f"/#/experiments{run}?{TRAINING_MODE}"

    @property
    def ranking(self) -> str:
        """Path of the experiment's runs, best first, in the MLflow UI."""
        view = f"viewStateShareKey={self.view}&" if self.view else ""
        return f"/#/experiments/{self.experiment_id}/runs?{view}{TRAINING_MODE}"

    @property
    def url(self) -> str | None:
        """Page of the run on the server. None: the store is a database."""
        return self._on_server(self.page)

    @property
    def ranking_url(self) -> str | None:
        """Page of the runs, best first, on the server. None: the store is a database."""
        return self._on_server(self.ranking)

    def _on_server(self, page: str) -> str | None:
        return public(self.tracking_uri) + page if self.tracking_uri.startswith("http") else None


def _with_addresses(state: State, old: str, new: str) -> State:
    """The state with the beginning of the paths in its addresses exchanged."""

    root, before = state.artifact_root, f"file://{quote(old)}"
    if root is not None and root.startswith(before):
        root = f"file://{quote(new)}{root.removeprefix(before)}"
    return replace(state, tracking_uri=moved(state.tracking_uri, old, new), artifact_root=root)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A folder, empty at first, for files that a run's only sender makes.

    It lies in the run folder: what a killed sender left there is the next one's to remove.
    """
    place = folder / SCRATCH
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def new_state(config: TrackingConfig, outputs: Path) -> State:
    """Settings of `config` and of the environment, addresses made absolute, nothing sent."""
    address = config.address
    uri = absolute(address) if address else sqlite_url(outputs.resolve() / "mlflow.db")
    artifact_root: str | None = (outputs.resolve() / "mlartifacts").as_uri()
    if database := sqlite_path(uri):
        artifact_root = (database.parent / "mlartifacts").as_uri()
    elif uri.startswith("http") or uri.startswith("databricks"):
        artifact_root = None
    return State(
        tracking_uri=uri,
        artifact_root=artifact_root,
        experiment=config.experiment_name,
        name=config.name,
        system_metrics=config.system_metrics,
        flush_seconds=config.flush_seconds,
        finish_timeout_seconds=config.finish_timeout_seconds,
    )


def place(config: TrackingConfig, outputs: Path) -> str:
    """Where the record goes, for the screen."""
    if not config.enabled:
        return "the run folder alone"
    uri = new_state(config, outputs).tracking_uri
    where, here = public(uri), Path.cwd()
    if file := sqlite_path(uri):
        where = str(file.relative_to(here) if file.is_relative_to(here) else file)
    return f"MLflow experiment {config.experiment_name} at {where}"


@dataclass(frozen=True)
class Done:
    """All of the run folder is in MLflow."""

    mlflow_run_id: str | None
    """None: tracking is disabled."""
    url: str | None = None
    """Page of the run. None: the store is a database without a server; `orchestrate ui` shows it.
    """
    ranking_url: str | None = None
    """Page of the runs of its stage, best first."""
    refused: tuple[str, ...] = ()
    """What MLflow did not accept."""


@dataclass(frozen=True)
class Pending:
    """The run folder is whole, MLflow lacks a part of it."""

    mlflow_run_id: str | None
    sent_bytes: int
    """Bytes of the journal that MLflow has."""
    journal_bytes: int
    command: str
    """Sends the rest."""
    why: str | None = None
    """What kept MLflow from taking it. None: nothing but time, as far as anybody knows."""

    def __str__(self) -> str:
        """For the terminal."""
        return (f"{self.why}\n" if self.why else "") + (
            f"metrics pending: MLflow has {self.sent_bytes} of {self.journal_bytes} bytes of the "
            f"journal; nothing is lost, send the rest with: {self.command}"
        )


class NoMirror:
    """Stands in for a mirror when tracking is disabled."""

    run_id: str | None = None

    def news(self) -> str | None:
        """What keeps the record from being sent, told once. None: nothing, or nothing new."""
        return None

    def finish(self, timeout: float | None = None) -> Done | Pending:
        """Do nothing."""
        return Done(mlflow_run_id=None)


class Mirror(NoMirror):
    """The process that sends a run folder to MLflow, as its driver sees it."""

    def __init__(self, folder: Path, default_timeout: float) -> None:
        """Start the process; see `start_mirror`."""
        self.folder = folder
        self.default_timeout = default_timeout
        self.process = self._spawn("--follow")
        self._told: set[str] = set()
        self._looked_at: tuple[int, int] | None = None

    @property
    def run_id(self) -> str | None:  # type: ignore[override]
        """Id of the MLflow run. None: it is not created yet."""
        state = State.load(self.folder)
        return state.run_id if state else None

    def news(self) -> str | None:
        """What keeps the record from being sent, told once; reads a file only if it is new."""
        try:
            facts = (self.folder / STATE).stat()
        except OSError:
            return None
        seen, self._looked_at = self._looked_at, (facts.st_mtime_ns, facts.st_ino)
        state = State.load(self.folder) if seen != self._looked_at else None
        return self._first_time(state.trouble) if state else None

    def finish(self, timeout: float | None = None) -> Done | Pending:
        """Wait until all is sent, at most `timeout` seconds; leaves no process behind."""
        deadline = time.monotonic() + (self.default_timeout if timeout is None else timeout)
        sent = _end_of_job(self.process, deadline)
        if not sent and time.monotonic() < deadline:  # the mirror had died or given up
            _end_of_job(self._spawn(), deadline)
        found = outcome(self.folder)
        if isinstance(found, Pending):
            return replace(found, why=self._first_time(found.why))
        return found

    def _first_time(self, trouble: str | None) -> str | None:
        if trouble is None or trouble in self._told:
            return None
        self._told.add(trouble)
        return trouble

    def _spawn(self, *flags: str) -> "subprocess.Popen[bytes] | None":
        return start_sender(self.folder / LOG, str(self.folder), *flags)


def start_sender(log: Path, *arguments: str) -> "subprocess.Popen[bytes] | None":
    """Start the process that sends runs. None: this host has no process or memory left for it."""
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as output:
        try:
            # A group of its own: Ctrl-C ends the driver, the mirror then sends how it ended.
            return subprocess.Popen(
                [sys.executable, "-P", "-m", SENDER, *arguments],
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                process_group=0,
            )
        except OSError as error:  # the job is worth more
            output.write(f"the mirror did not start: {error}\n".encode())
            return None


def start_mirror(
    folder: Path, config: TrackingConfig, outputs: Path, sweep: str | None = None
) -> NoMirror:
    """Start to mirror `folder` into MLflow; call `finish` once result.json is written.

    A trial is mirrored by the process of its sweep, whose key `sweep` is.
    """
    if not config.enabled:
        return NoMirror()
    folder = folder.resolve()
    state = new_state(config, outputs).resumed(State.load(folder))
    state.parent = sweep
    state.driver = None if sweep is not None else process_name(os.getpid())
    state.save(folder)
    if sweep is not None:
        return NoMirror()
    return Mirror(folder, config.finish_timeout_seconds)


def outcome(folder: Path) -> Done | Pending:
    """How much of a run folder MLflow has."""
    state = State.load(folder)
    assert state is not None, f"{folder} is not tracked"
    sizes = {
        name: (folder / name).stat().st_size if (folder / name).exists() else 0
        for name in (lines.METRICS, lines.EVENTS)
    }
    sent = sum(state.offsets.get(name, 0) for name in sizes)
    if state.done and sent >= sum(sizes.values()):
        return Done(state.run_id, state.url, state.ranking_url, tuple(state.refused))
    command = f"orchestrate sync {shlex.quote(str(folder))}"
    return Pending(state.run_id, sent, sum(sizes.values()), command, state.trouble)


def process_name(pid: int) -> str | None:
    """Host, id and start of a process, which no later process shares. None: it is not there.

    The start is in clock ticks since boot, not a time of day, which changes with the clock.
    """
    try:
        facts = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    ticks = facts.rpartition(")")[2].split()[19]  # field 22; the name before may hold anything
    return f"{socket.gethostname()}/{pid}/{ticks}"


def _end_of_job(process: "subprocess.Popen[bytes] | None", deadline: float) -> bool:
    """Tell a mirror that the job ended, wait until `deadline`, then kill it; has it sent all?"""
    if process is None:
        return False
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    with contextlib.suppress(OSError):  # only root may; without it a busy host makes us wait longer
        os.setpriority(os.PRIO_PROCESS, process.pid, 0)
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()  # safe anywhere, and a call stuck in a socket or a lock hears nothing else
        process.wait()
    return process.returncode == 0
