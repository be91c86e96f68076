"""`orchestrate why [RUN]`: the story of a run on one screen, also while it goes on.

How it ended and why, what happened, what was lost, where the time went, what to do next: by its
journal alone, so a run that was killed with its driver is told as well as one that ended.
"""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from orchestrator.record.mlflow.mirror import Pending, State, outcome
from orchestrator.record.redaction import Redactor
from orchestrator.record.runs import RUNNING, Run, find
from orchestrator.record.story.telling import Story
from orchestrator.terminal import printable, say

LATEST = "outputs/latest"


def main(argv: Sequence[str]) -> int:
    """Print the story; returns the exit code. Raises ValueError for no such run."""
    options = parser().parse_args(argv)
    run = find(options.run, Path(options.outputs))
    hide = Redactor(run.config).text
    for heading, lines in Story(run).parts():
        if heading:
            say(f"\n{heading}")
        for line in [*lines, *(_untold(run) if heading == "what to do" else ())]:
            say("  " * bool(heading) + printable(hide(line)), hang=12)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate why", description=__doc__.splitlines()[0])
    new.add_argument(
        "run", nargs="?", default=LATEST, help="run folder, or the beginning of an id [%(default)s]"
    )
    new.add_argument(
        "--outputs", default="outputs", help="folder in which ids are looked up [%(default)s]"
    )
    return new


def _untold(run: Run) -> list[str]:
    """What to type where MLflow lacks a part of the record of a run that is over."""
    if run.status == RUNNING or State.load(run.folder) is None:
        return []
    if not isinstance(outcome(run.folder), Pending):
        return []
    return [f"orchestrate sync {shlex.quote(str(run.folder))}, for MLflow lacks a part of it"]
