"""Send a run folder to MLflow until all is sent, while its job runs or afterwards."""

import fcntl
import logging
import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path

from data import cache_root
from orchestrator.config import TrackingConfig
from orchestrator.record.lines import METRICS
from orchestrator.record.mlflow.mirror import (
    ENVIRONMENT,
    LOG,
    Done,
    Pending,
    State,
    new_state,
    outcome,
    process_name,
)
from orchestrator.record.mlflow.server import trouble
from orchestrator.record.predictions import is_prediction
from orchestrator.record.reading import CONFIG, read_settings
from orchestrator.record.redaction import RedactingFormatter, Redactor
from orchestrator.record.sweeps import TABLE, is_sweep

log = logging.getLogger("tracking")

LONGEST_WAIT = 15.0  # seconds between two tries while the job runs and the store is away
START_S, LOOK_S = 20.0, 0.25


def send(folder: Path, *, live: bool = False) -> Done | Pending:
    """Send what MLflow lacks of a run folder.

    Args:
        folder: a run folder.
        live: this process is the mirror of the job of its parent, which holds the other end of
            stdin and closes it, by will or by death, at the end of the job.

    Raises:
        ValueError: `folder` is no run folder, or its job still runs and is sent by its own mirror.
    """
    parent = os.getppid()
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("MPLCONFIGDIR", str(cache_root() / "matplotlib"))  # else in the home
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - a bare user id, but MLflow wants a home
        os.environ["HOME"] = str(cache_root())
    folder = folder.resolve()
    own_kind = is_sweep(folder) or is_prediction(folder)
    if not own_kind and not (folder / CONFIG).exists():
        raise ValueError(
            f"{folder} is not a run folder: it has no config.yaml; name one like "
            "outputs/<date>/<time>-<stage>-<id>, or outputs/latest"
        )
    config = {} if own_kind else read_settings(folder / CONFIG)
    redactor = Redactor.of_run(folder, config)
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s", redactor))
    for earlier in logging.root.handlers:
        if isinstance(earlier.formatter, RedactingFormatter):  # it knows another run's secrets
            logging.root.removeHandler(earlier)
    logging.root.addHandler(handler)
    logging.root.setLevel(logging.WARNING)
    log.setLevel(logging.INFO)
    (folder / "logs").mkdir(exist_ok=True)
    with (folder / LOG).open("ab") as lock:
        state = State.load(folder) or _state_from_config(folder)
        if not live and _is_running(state, parent):
            raise ValueError(
                f"{folder} is still written to, by process {state.driver}; it is sent as it goes, "
                "wait until it ends"
            )
        fcntl.flock(lock, fcntl.LOCK_EX)  # an earlier sender ends first
        state = State.load(folder) or state
        state.done, state.trouble = False, None
        state.save(folder)
        follow(folder, state, parent if live else None)
    return outcome(folder)


def _is_running(state: State, parent: int) -> bool:
    """Whether the driver lives and is not who asks."""
    pid = int(state.driver.split("/")[1]) if state.driver else parent
    return pid != parent and process_name(pid) == state.driver


def follow(folder: Path, state: State, driver: int | None) -> None:
    """Send until the driver is gone and all is sent, or `finish_timeout_seconds` after that.

    `driver` is the process id of the driver that holds stdin. None: the job is over already.
    """
    if driver is not None:
        _await_first_step(folder, driver)
    from orchestrator.record.mlflow.predictions import PredictionReplay
    from orchestrator.record.mlflow.replay import Replay
    from orchestrator.record.mlflow.store import SystemMetrics
    from orchestrator.record.mlflow.sweeps import SweepReplay

    kind: type[Replay | SweepReplay | PredictionReplay] = Replay
    if is_sweep(folder):
        kind = SweepReplay
    elif is_prediction(folder):
        kind = PredictionReplay
    monitors: SystemMetrics | None = None
    replay: Replay | SweepReplay | PredictionReplay | None = None
    if driver is not None and state.system_metrics:
        monitors = SystemMetrics(folder)
    failures, wait = 0, 0.0
    deadline = None if driver is not None else time.monotonic() + state.finish_timeout_seconds
    while True:
        if deadline is not None:
            time.sleep(min(wait, 1.0))
        elif _driver_left(driver, wait):
            deadline = time.monotonic() + state.finish_timeout_seconds
        over = deadline is not None
        try:
            if monitors is not None:
                monitors.sample()
            replay = replay or kind(folder, state)
            replay.send()
            if over:
                replay.finish()
                _remember(folder, state, None)
                return
            failures, wait = 0, state.flush_seconds
            _remember(folder, state, None)
        except Exception as error:
            said = trouble(state, error)
            if said != state.trouble:
                log.error("could not send, will try again: %s", said, exc_info=driver is not None)
            _remember(folder, state, said)
            failures += 1
            wait = pause(failures)
        if deadline is not None and time.monotonic() > deadline:
            log.error("gave up: %s", outcome(folder))
            return


def _await_first_step(folder: Path, driver: int) -> None:
    """Wait until there is a first metric, or a first trial of a sweep, 20 s at most.

    To import MLflow takes 2 s of CPU, and the workers import torch meanwhile: even at the lowest
    priority the first step would come 0.7 s later.
    """
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and not _driver_left(driver, LOOK_S):
        for name in (METRICS, TABLE):
            with suppress(FileNotFoundError):
                if (folder / name).stat().st_size:
                    return


def _remember(folder: Path, state: State, said: str | None) -> None:
    """Keep for the driver what is wrong; on a full disk it stays in the log."""
    if state.trouble != said:
        state.trouble = said
        with suppress(OSError):
            state.save(folder)


def pause(failures: int) -> float:
    """Seconds until the next try: 1 after the first failure in a row, then twice as long each time.

    A store may be away for days, so the power is bounded, too: 2.0**1024 is no float.
    """
    return min(0.5 * 2.0 ** min(failures, 10), LONGEST_WAIT)


def _driver_left(driver: int | None, seconds: float) -> bool:
    """Wait for the end of the driver, at most `seconds`."""
    end = time.monotonic() + seconds
    while True:
        # A forked child of a dead driver may keep its end of the pipe open: look at both.
        left = max(0.0, end - time.monotonic())
        closed, _, _ = select.select([sys.stdin], [], [], min(left, 1.0))
        if closed or os.getppid() != driver:
            return True
        if left <= 1.0:
            return False


def _state_from_config(folder: Path) -> State:
    """The state of a run that was never tracked, from its config."""
    tracking = read_settings(folder / CONFIG).get("tracking", {})
    try:
        config = TrackingConfig(**tracking)
    except TypeError as error:
        raise ValueError(f"{folder / CONFIG}: tracking={tracking}: {error}") from None
    return new_state(config, folder.parents[1])
