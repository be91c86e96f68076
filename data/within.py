"""Calls into a library that may never end, given up after a time."""

import queue
import threading
from collections.abc import Callable
from typing import Any


def within(seconds: float, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a function returns; it is left behind, in a thread of its own, if it takes longer.

    It must be one that lets other threads run, as calls into Rust or C may.

    Raises:
        TimeoutError: it takes longer.
        BaseException: what it raises itself.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            answers.put((function(*arguments, **options), None))
        except BaseException as error:
            answers.put((None, error))

    # A daemon: whoever leaves the process does not wait for it.
    threading.Thread(target=call, daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:g} s") from None
    if error is not None:
        raise error
    return result
