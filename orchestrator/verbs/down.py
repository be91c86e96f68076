"""`orchestrate down`: end the cluster of this machine; what runs saves a checkpoint first.

Jobs that wait or ran stay in the queue: they go on, from their checkpoints, after the next `up`.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence

from cluster.daemons import control, remote
from cluster.daemons.home import home
from orchestrator.terminal import say


def main(argv: Sequence[str]) -> int:
    """End what `up` has started, and all that this has started; returns the exit code."""
    parser().parse_args(argv)
    own = home(make=False)
    plan = control.look(own).plan
    if not plan and not own.folder.is_dir():
        say("nothing is up on this machine")
        return 0
    if plan:
        say("jobs save and leave, then the queue, MLflow and Ray end")
    many = control.stop(own)
    failed = remote.leave(own, plan.get("hosts", []))
    for host, why in failed.items():
        say(f"error: the node on {host} was not ended: {why}", sys.stderr)
        say(f"end it: {remote.by_hand(own, host, 'down')}", sys.stderr)
    if temporary := plan.get("temporary"):
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"ended, {many} processes in all" if many else "nothing is up on this machine")
    return 1 if failed else 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    return argparse.ArgumentParser(
        prog="orchestrate down",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
