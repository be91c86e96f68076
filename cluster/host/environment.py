"""Environment variables of this process, for a time."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(values: Mapping[str, str], keep: Iterable[str] = ()) -> Iterator[None]:
    """Set variables while the block runs; they, and those named in `keep`, are put back after."""
    before = {name: os.environ.get(name) for name in {*values, *keep}}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
