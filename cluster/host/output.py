"""Where this process's output goes, for a time: also what C++ writes past Python."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def output_to(log: Path, *numbers: int) -> Iterator[None]:
    """Append to a log what is written to these file descriptors, 1 or 2, while the block runs."""
    with ExitStack() as stack:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(log.open("ab", buffering=0))
        for number in numbers:
            stream = {1: sys.stdout, 2: sys.stderr}[number]
            stream.flush()
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            stack.callback(stream.flush)
            os.dup2(file.fileno(), number)
        yield
