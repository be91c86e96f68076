"""How a command ended, as its exit code says it."""

from collections.abc import Mapping
from typing import Any

DONE = 0
FAILED = 1
REFUSED = 2
"""The request can't work; nothing was started."""
STOPPED = 3
"""A job was interrupted before it had a checkpoint: it starts anew."""
INTERRUPTED = 130
"""A job was interrupted and has a checkpoint to go on from; any other command: Ctrl-C."""


def code_of(result: Mapping[str, Any]) -> int:
    """The exit code of a job with this result.json."""
    interrupted = INTERRUPTED if result.get("checkpoint") else STOPPED
    return {"done": DONE, "interrupted": interrupted}.get(result["status"], FAILED)
