"""How a command ended, as its exit code says it."""

DONE = 0
FAILED = 1
REFUSED = 2
"""The request can't work; nothing was started."""
STOPPED = 3
"""A job was interrupted before it had a checkpoint: it starts anew."""
INTERRUPTED = 130
"""A job was interrupted and has a checkpoint to go on from; any other command: Ctrl-C."""
