"""`orchestrate logs ID [-f] [--rank K]`: what a job shows, or what one of its ranks says."""

import argparse
import codecs
import sys
import time
from collections.abc import Sequence

from cluster.queue.client import connect
from cluster.queue.job import ENDED
from orchestrator.job.codes import DONE, FAILED
from orchestrator.terminal import say

LOOK_S = 0.5


def main(argv: Sequence[str]) -> int:
    """Print it; with -f until the job has ended, and then 0 if it is done, else 1.

    Raises:
        QueueError: no queue answers, there is no such job, or it is somebody else's.
    """
    options = parser().parse_args(argv)
    client, offset = connect(), 0
    decoded = codecs.getincrementaldecoder("utf-8")("replace")  # a part may end within a character
    while True:
        text, state = client.log(options.id, offset, options.rank)
        print(decoded.decode(text), end="", flush=True)
        offset += len(text)
        if text:
            continue
        if state in ENDED or not options.follow:
            break
        time.sleep(LOOK_S)
    if not offset:
        say(f"{options.id} has said nothing yet: orchestrate status {options.id}", sys.stderr)
    return DONE if not options.follow or state == "done" else FAILED


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate logs", description=__doc__)
    new.add_argument("id", help="of the job")
    new.add_argument("-f", "--follow", action="store_true", help="go on until it has ended")
    new.add_argument("--rank", type=int, help="the log of this rank, not the screen of the job")
    return new
