"""`python -m orchestrator.record.mlflow RUN_FOLDER`: send what MLflow lacks of a run.

With --follow it is the mirror of a running job, whose driver holds the other end of stdin and
closes it, by will or by death, at the end of the job. Exit codes: 0 all sent, 1 pending, 2 refused.
"""

import argparse
import fcntl
import logging
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from data import cache_root
from orchestrator.config import TrackingConfig
from orchestrator.record.mlflow.mirror import (
    ENVIRONMENT,
    LOG,
    SENDER,
    Pending,
    State,
    new_state,
    outcome,
    process_name,
)

log = logging.getLogger("tracking")

LONGEST_WAIT = 15.0  # seconds between two tries while the job runs and the store is away


def main(arguments: Sequence[str] | None = None) -> int:
    """Send one run folder."""
    parser = argparse.ArgumentParser(prog=f"python -m {SENDER}", description=__doc__)
    parser.add_argument("folder", type=Path, help="run folder, outputs/<date>/<time>-<stage>-<id>")
    parser.add_argument("--follow", action="store_true", help="go on until stdin is closed")
    options = parser.parse_args(arguments)
    parent = os.getppid()
    if options.follow:
        os.nice(19)
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("MPLCONFIGDIR", str(cache_root() / "matplotlib"))  # else in the home
    folder = options.folder.resolve()
    if not (folder / "config.yaml").exists():
        print(f"{folder} is not a run folder: it has no config.yaml", file=sys.stderr)
        return 2
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    (folder / "logs").mkdir(exist_ok=True)
    with (folder / LOG).open("ab") as lock:
        state = State.load(folder) or _state_from_config(folder)
        if not options.follow and _is_running(state, parent):
            print(f"{folder} is still written to, by process {state.driver}; it is sent as it goes")
            return 1
        fcntl.flock(lock, fcntl.LOCK_EX)  # an earlier sender ends first
        state = State.load(folder) or state
        state.done = False
        state.save(folder)
        follow(folder, state, parent if options.follow else None)
    result = outcome(folder)
    print(result, flush=True)
    return 1 if isinstance(result, Pending) else 0


def _is_running(state: State, parent: int) -> bool:
    """Whether the driver lives and is not who asks."""
    pid = int(state.driver.split("/")[1]) if state.driver else parent
    return pid != parent and process_name(pid) == state.driver


def follow(folder: Path, state: State, driver: int | None) -> None:
    """Send until the driver is gone and all is sent, or `finish_timeout_seconds` after that.

    `driver` is the process id of the driver that holds stdin. None: the job is over already.
    """
    from orchestrator.record.mlflow.replay import Replay
    from orchestrator.record.mlflow.store import SystemMetrics

    monitors, replay = None, None
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
            replay = replay or Replay(folder, state)
            replay.send()
            if over:
                replay.finish()
                return
            failures, wait = 0, state.flush_seconds
        except Exception:
            log.exception("could not send, will try again")
            failures += 1
            wait = min(0.5 * 2**failures, LONGEST_WAIT)
        if deadline is not None and time.monotonic() > deadline:
            log.error("gave up: %s", outcome(folder))
            return


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
    config = yaml.safe_load((folder / "config.yaml").read_text()) or {}
    return new_state(folder, TrackingConfig(**config.get("tracking", {})), folder.parents[1])


if __name__ == "__main__":
    sys.exit(main())
