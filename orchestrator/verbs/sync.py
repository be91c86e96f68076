"""`orchestrate sync [RUN_FOLDER ...]`: send what MLflow lacks of runs, after an outage or a crash.

Without folders: of all runs in --outputs that are over. A run that was killed with all that it
started stands in MLflow as running until then. Nothing is sent twice, so it may be typed at any
time. Exit codes: 0 all sent, 1 some is pending.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from orchestrator.record.mlflow import Pending
from orchestrator.record.mlflow.leftover import left_over
from orchestrator.record.mlflow.sending import send
from orchestrator.terminal import say


def main(argv: Sequence[str]) -> int:
    """Send each folder; returns the exit code. Raises ValueError for one that can't be sent."""
    options = parser().parse_args(argv)
    folders = options.folders or left_over(options.outputs)
    if not folders:
        say(f"MLflow lacks nothing of the runs in {options.outputs} that are over")
    return send_all(folders)


def send_all(folders: Sequence[Path]) -> int:
    """Send what MLflow lacks of each run and say how far that got; returns the exit code."""
    code = 0
    for folder in folders:
        sent = send(folder)
        if isinstance(sent, Pending):
            say(str(replace(sent, why=None)))  # which stands above, since it was found
            code = 1
            continue
        say(f"{folder} is in MLflow: {sent.url or f'orchestrate ui {quote(str(folder))}'}")
        for problem in sent.refused:
            say(f"MLflow did not accept {problem}")
    return code


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate sync", description=__doc__)
    new.add_argument("folders", type=Path, nargs="*", metavar="RUN_FOLDER", help="runs to send")
    new.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of all runs")
    return new
