"""Runs that are over and of which MLflow lacks a part: after an outage, a crash, a power cut.

Whether a run is over is told by the lock of its journal, which dies with its driver. Such a run
stands as RUNNING in MLflow until it is sent; `orchestrate run` and `orchestrate ui` have that done
behind their backs, `orchestrate sync` and `ui --sync` do it at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.record.lines import is_claimed
from orchestrator.record.mlflow.mirror import LOG, STATE, Pending, State, outcome, start_sender
from orchestrator.record.runs import RUNNING, Run


def left_over(outputs: Path) -> list[Path]:
    """Folders of such runs under an outputs folder, oldest first."""
    tracked = sorted(path.parent for path in outputs.glob(f"*/*/{STATE}"))
    return [folder for folder in tracked if _is_left_over(folder)]


def _is_left_over(folder: Path) -> bool:
    """A state that a power cut has taken says nothing, so such a run is sent anew."""
    if State.load(folder) is not None and not isinstance(outcome(folder), Pending):
        return False
    sender = folder / LOG
    return Run(folder).status != RUNNING and not is_claimed(sender, unknown=True)


@contextmanager
def sending_left_over(outputs: Path, log: Path) -> Iterator[list[Path]]:
    """While the block runs, a process of the lowest priority sends such runs; yields which.

    At its end the process is killed, which is safe anywhere: the next one goes on.
    """
    folders = left_over(outputs)
    process = start_sender(log, *map(str, folders), "--leftover") if folders else None
    try:
        yield folders
    finally:
        if process is not None:
            process.kill()
            process.communicate()
