"""What must hold of a run that is over, whatever was done to it; read from its files alone."""

import sqlite3
from collections import Counter
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from orchestrator.record.checkpoints.finding import published, verify
from orchestrator.record.checkpoints.manifest import FOLDER, PARTIAL, Checkpoint, CheckpointError
from orchestrator.record.descent import Descent
from orchestrator.record.lines import EVENTS, METRICS, JournalError, read
from orchestrator.record.mlflow.mirror import State
from orchestrator.record.mlflow.sqlite import sqlite_path
from orchestrator.record.runs import RESULT, mapping
from orchestrator.record.story.spending import STEP_SECONDS

LOSS = "train/loss"
SHARED_MEMORY, TEMPORARY = Path("/dev/shm"), Path("/tmp")


def broken(folder: Path) -> list[str]:
    """What does not hold of the run in `folder`, in a sentence each; empty if all is well.

    1. One process wrote the journal at a time: times and attempts never decrease in a file.
    2. The steps that count are there once each, without a gap, from where the run began.
    3. What the checkpoints say of their files is so, and none is half-written.
    4. result.json, the last event and the steps agree.
    """
    try:
        metrics, events = read(folder / METRICS)[0], read(folder / EVENTS)[0]
    except JournalError as error:
        return [str(error)]
    found = _order(METRICS, metrics) + _order(EVENTS, events)
    steps = [line for line in metrics if STEP_SECONDS in line["metrics"]]
    found += _steps(Descent(folder), steps, _begin(events))
    found += _checkpoints(folder)
    return found + _end(mapping(folder / RESULT), events, steps)


def _order(name: str, lines: list[dict[str, Any]]) -> list[str]:
    """Two writers would interleave their attempts or their times."""
    return [
        f"{name}: {what} goes back from {before[what]} to {after[what]}: there were two writers"
        for what in ("time_ms", "attempt")
        for before, after in pairwise(lines)
        if after[what] < before[what]
    ]


def _begin(events: list[dict[str, Any]]) -> int:
    """The step after which a run began: that of another run's checkpoint, else 0."""
    saved = {event["step"] for event in events if event["event"] == "checkpoint"}
    resumed = [event["step"] for event in events if event["event"] == "resumed"]
    return min((step for step in resumed if step not in saved), default=0)


def _steps(descent: Descent, lines: list[dict[str, Any]], begin: int) -> list[str]:
    counting = [line["step"] for line in lines if descent.holds(line["attempt"], line["step"])]
    times = Counter(counting)
    expected = range(begin + 1, max(counting, default=begin) + 1)
    found = [f"step {step} counts {n} times" for step, n in times.items() if n > 1]
    if missing := [step for step in expected if step not in times]:
        found.append(f"steps {missing[:8]} are missing, between {begin} and {max(counting)}")
    return found


def _checkpoints(folder: Path) -> list[str]:
    root, bad = folder / FOLDER, []
    for path in published(root):
        try:
            verify(path)
        except CheckpointError as error:
            bad.append(str(error))
    partial = [f"{path} was left half-written" for path in root.glob(f"*{PARTIAL}")]
    return bad + partial


def _end(
    result: dict[str, Any], events: list[dict[str, Any]], steps: list[dict[str, Any]]
) -> list[str]:
    if not result:
        return [f"there is no {RESULT}"]
    found, last = [], max((line["step"] for line in steps), default=0)
    ends = [event.get("status") for event in events if event["event"] == "finished"]
    if ends[-1:] != [result.get("status")]:
        found.append(f"{RESULT} says {result.get('status')}, the journal {ends[-1:]}")
    if steps and result.get("status") == "done" and result.get("steps") != last:
        found.append(f"{RESULT} says {result.get('steps')} steps, the journal {last}")
    return found


def differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """What differs between the states after two runs of one job, in a sentence each.

    The files of weights and optimizers are compared by their hashes, the data by its ledger.
    """
    found = []
    if one.step != other.step:
        found.append(f"steps: {one.step} and {other.step}")
    for name in sorted(one.files.keys() | other.files.keys()):
        hashes = [c.files[name].sha256[:12] if name in c.files else None for c in (one, other)]
        if hashes[0] != hashes[1]:
            found.append(f"{name}: {hashes[0]} and {hashes[1]}")
    if one.facts.get("data") != other.facts.get("data"):
        found.append("the ledgers of the samples differ")
    return found


def unlike(one: Checkpoint, other: Checkpoint, most: float) -> list[str]:
    """What differs between two runs of one job on other numbers of workers, in a sentence each.

    Both end at one step, with one ledger. Each step's loss may differ by the part `most` of it:
    the order of the sums is another.
    """
    found = []
    if one.step != other.step:
        found.append(f"steps: {one.step} and {other.step}")
    if one.facts.get("data") != other.facts.get("data"):
        found.append("the ledgers of the samples differ")
    ours, theirs = losses(one.path.parents[1]), losses(other.path.parents[1])
    for step in sorted(ours.keys() & theirs.keys()):
        if abs(ours[step] - theirs[step]) > most * abs(ours[step]):
            found.append(f"loss of step {step}: {ours[step]} and {theirs[step]}")
            break
    return found


def losses(folder: Path) -> dict[int, float]:
    """The training loss of each step that counts."""
    descent = Descent(folder)
    return {
        line["step"]: line["metrics"][LOSS]
        for line in read(folder / METRICS)[0]
        if LOSS in line["metrics"] and descent.holds(line["attempt"], line["step"])
    }


def left_behind(pid: int, marker: str) -> list[str]:
    """Processes with `marker` in their environment, and Ray's folder of a job of this pid.

    A port that is still taken has such a process.
    """
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and marker in process.environ().values():
                found.append(f"process {process.pid}: {' '.join(process.cmdline())[:80]}")
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found + [str(path) for path in TEMPORARY.glob(f"orch-{pid}-*")]


def shared_memory() -> set[Path]:
    """What there is of named shared memory on this host."""
    return set(SHARED_MEMORY.iterdir())


def orphaned(before: set[Path]) -> list[str]:
    """Shared memory that has come since `before` was told and that no living process has mapped."""
    new = shared_memory() - before
    for maps in Path("/proc").glob("[0-9]*/maps") if new else ():
        with suppress(OSError):  # it has ended, or is somebody else's
            text = maps.read_text()
            new = {path for path in new if str(path) not in text}
    return sorted(str(path) for path in new)


def unsent(folder: Path) -> list[str]:
    """What the store of a run lacks of its points that count, or has twice; SQLite alone."""
    state = State.load(folder)
    database = sqlite_path(state.tracking_uri) if state is not None else None
    return [] if database is None else differing_points(folder, database)


def differing_points(folder: Path, database: Path) -> list[str]:
    """As `unsent`, of a run whose store is this one."""
    state = State.load(folder)
    run_id = None if state is None else state.run_id
    descent = Descent(folder)
    wanted = {
        (key, line["step"])
        for line in read(folder / METRICS)[0]
        if descent.holds(line["attempt"], line["step"])
        for key in line["metrics"]
    }
    query = "SELECT key, step, count(*) FROM metrics WHERE run_uuid = ? GROUP BY key, step"
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as store:
        rows = {(key, step): n for key, step, n in store.execute(query, [run_id])}
    missing = wanted - rows.keys()
    found = [f"MLflow lacks {len(missing)} points, such as {min(missing)}"] if missing else []
    if descent.newest <= 1:  # a later attempt may measure another value at a step
        twice = [point for point, n in rows.items() if n > 1 and not point[0].startswith("system/")]
        found += [f"MLflow has {len(twice)} points twice, such as {min(twice)}"] if twice else []
    return found
