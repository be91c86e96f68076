"""`orchestrate sync RUN_FOLDER ...`: send what MLflow lacks of runs, after an outage or a crash.

Nothing is sent twice, so it may be typed at any time. Exit codes: 0 all sent, 1 some is pending.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote

from orchestrator.record.mlflow import Pending
from orchestrator.record.mlflow.sending import send
from orchestrator.terminal import say


def main(argv: Sequence[str]) -> int:
    """Send each folder; returns the exit code. Raises ValueError for one that can't be sent."""
    code = 0
    for folder in parser().parse_args(argv).folders:
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
    new.add_argument("folders", type=Path, nargs="+", metavar="RUN_FOLDER", help="runs to send")
    return new
