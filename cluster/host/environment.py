"""Environment variables of this process, for a time."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(values: Mapping[str, str | None], keep: Iterable[str] = ()) -> Iterator[None]:
    """Set variables while the block runs, unset those that are None.

    They, and those named in `keep`, are put back after.
    """
    before = {name: os.environ.get(name) for name in {*values, *keep}}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
