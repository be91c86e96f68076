"""One worker of a pool, and how functions, results and exceptions travel to it and back."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cluster.worker import Worker


@dataclass(frozen=True)
class Answer:
    """How a unit ended in a worker: a result, or what the function raised."""

    result: Any = None
    error: bytes | None = None
    """The exception, pickled."""
    traceback: str = ""
    memory_kills: int = 0
    """What the kernel has counted by now in the worker's memory group."""


class PoolWorker(Worker):
    """The Ray actor; one unit at a time."""

    def answer(self, pickled: bytes, argument: Any) -> Answer:
        """Carry out one unit: call the pickled function."""
        try:
            # Here and not by Ray, since it may import much: after `start`, and inside the try.
            result = _unpickled(pickled)(argument)
            return Answer(result, memory_kills=self.memory_kills())
        except Exception as error:
            text = traceback.format_exc()
            print(text, flush=True)
            return Answer(error=_pickled_error(error), traceback=text)


@lru_cache(maxsize=4)
def _unpickled(function: bytes) -> Callable[[Any], Any]:
    unpickled: Callable[[Any], Any] = pickle.loads(function)
    return unpickled


def _pickled_error(error: Exception) -> bytes:
    """An exception as bytes; one that does not survive that becomes a RuntimeError in words."""
    from ray import cloudpickle

    try:
        pickled: bytes = cloudpickle.dumps(error)  # type: ignore[no-untyped-call]
        pickle.loads(pickled)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return pickled


def pickled(function: Callable[[Any], Any]) -> bytes:
    """Pickled once, by Ray's cloudpickle, so that functions of notebooks travel, too."""
    from ray import cloudpickle

    work: bytes = cloudpickle.dumps(function)  # type: ignore[no-untyped-call]
    return work


def as_itself(answer: Answer) -> BaseException:
    """The exception that a worker's function raised."""
    assert answer.error is not None
    error: BaseException = pickle.loads(answer.error)
    error.add_note(f"in the worker:\n{answer.traceback}")
    return error
