"""`python -m orchestrator.record.mlflow RUN_FOLDER ... [--follow | --leftover]`: who sends runs.

A job starts it, with --follow for its own run, with --leftover for those that earlier ones left;
`orchestrate sync` is for people. Exit codes: 0 all sent, 1 pending, 2 refused.
"""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from orchestrator.record.mlflow.mirror import SENDER, Pending
from orchestrator.record.mlflow.sending import send


def main(arguments: Sequence[str] | None = None) -> int:
    """Send run folders; one that can't be sent keeps none from the others."""
    parser = argparse.ArgumentParser(prog=f"python -m {SENDER}", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--follow", action="store_true", help="go on until stdin is closed")
    parser.add_argument("--leftover", action="store_true", help="leave when stdin is closed")
    options = parser.parse_args(arguments)
    if options.follow or options.leftover:
        os.nice(19)
    if options.leftover:
        threading.Thread(target=_leave_with_parent, daemon=True).start()
    return max(_send(folder, live=options.follow) for folder in options.folders)


def _send(folder: Path, *, live: bool) -> int:
    try:
        result = send(folder, live=live)
    except ValueError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(result, flush=True)
    return 1 if isinstance(result, Pending) else 0


def _leave_with_parent() -> None:
    """End this process, wherever it is, when its parent has died: nothing of it is left behind."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
