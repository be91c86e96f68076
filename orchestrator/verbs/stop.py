"""`orchestrate stop ID`: end a job; if it runs, after its step and with a checkpoint."""

import argparse
from collections.abc import Sequence

from cluster.queue.client import connect
from orchestrator.terminal import say


def main(argv: Sequence[str]) -> int:
    """Ask for it; returns the exit code.

    Raises:
        QueueError: no queue answers, there is no such job, it is somebody else's, or has ended.
    """
    options = parser().parse_args(argv)
    job = connect().stop(options.id)
    said = "it saves and leaves" if job["state"] == "stopping" else "it had not begun"
    say(f"{options.id} is {job['state']}: {said}\ngo on:  orchestrate resume {options.id}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate stop", description=__doc__)
    new.add_argument("id", help="of the job")
    return new
