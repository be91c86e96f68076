"""`orchestrate resume ID`: let a job that failed or was stopped wait again, and then go on."""

import argparse
from collections.abc import Sequence

from cluster.queue.client import connect
from orchestrator.terminal import say


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code.

    Raises:
        QueueError: no queue answers, there is no such job, it is somebody else's, or is done.
    """
    options = parser().parse_args(argv)
    job = connect().resume(options.id)
    say(f"{options.id} is {job['state']}; it goes on from its last checkpoint")
    say(f"watch:  orchestrate logs {options.id} -f")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate resume", description=__doc__)
    new.add_argument("id", help="of the job")
    return new
