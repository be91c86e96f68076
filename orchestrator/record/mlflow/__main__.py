"""`python -m orchestrator.record.mlflow RUN_FOLDER [--follow]`: the process of a mirror.

Its job starts it, with --follow; `orchestrate sync` is for people. Exit codes: 0 all sent,
1 pending, 2 refused.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.record.mlflow.mirror import SENDER, Pending
from orchestrator.record.mlflow.sending import send


def main(arguments: Sequence[str] | None = None) -> int:
    """Send one run folder."""
    parser = argparse.ArgumentParser(prog=f"python -m {SENDER}", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--follow", action="store_true", help="go on until stdin is closed")
    options = parser.parse_args(arguments)
    if options.follow:
        os.nice(19)
    try:
        result = send(options.folder, live=options.follow)
    except ValueError as refusal:
        print(refusal, file=sys.stderr)
        return 2
    print(result, flush=True)
    return 1 if isinstance(result, Pending) else 0


if __name__ == "__main__":
    sys.exit(main())
