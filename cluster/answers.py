"""How functions, results and exceptions travel to the workers of pools and services and back."""

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
    """How a call ended in a worker: a result, or what the function raised."""

    result: Any = None
    error: bytes | None = None
    """The exception, pickled."""
    traceback: str = ""
    memory_kills: int = 0
    """What the kernel has counted by now in the worker's memory group."""

    def open(self) -> Any:
        """The result; raises what the function raised, as itself, with the traceback in a note."""
        if self.error is None:
            return self.result
        error: BaseException = pickle.loads(self.error)
        error.add_note(f"in the worker:\n{self.traceback}")
        raise error


class PoolWorker(Worker):
    """The Ray actor of a pool; one unit at a time."""

    def answer(self, pickled: bytes, argument: Any) -> Answer:
        """Carry out one unit: call the pickled function."""
        return answered(self, lambda: _unpickled(pickled)(argument))


class ReplicaWorker(Worker):
    """The Ray actor of a service: holds an object and calls its methods, one at a time."""

    def build(self, pickled: bytes, index: int) -> Answer:
        """Make the object; the pickled factory and payload may import much, so not before."""

        def make() -> None:
            factory, payload = pickle.loads(pickled)
            self._object = factory(payload, index)

        return answered(self, make)

    def answer(self, method: str, keywords: dict[str, Any], *arguments: Any) -> Answer:
        """Call a method of the object."""
        return answered(self, lambda: getattr(self._object, method)(*arguments, **keywords))


def answered(worker: Worker, call: Callable[[], Any]) -> Answer:
    """Carry out a call in a worker, whatever it does."""
    try:
        result = call()
    except Exception as error:
        text = traceback.format_exc()
        print(text, flush=True)
        return Answer(None, _pickled_error(error), text, worker.memory_kills())
    return Answer(result, memory_kills=worker.memory_kills())


@lru_cache(maxsize=4)
def _unpickled(function: bytes) -> Callable[[Any], Any]:
    unpickled: Callable[[Any], Any] = pickle.loads(function)
    return unpickled


def _pickled_error(error: Exception) -> bytes:
    """An exception as bytes; one that does not survive that becomes a RuntimeError in words."""
    try:
        pickled_error = pickled(error)
        pickle.loads(pickled_error)
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return pickled_error


def pickled(value: Any) -> bytes:
    """Pickled once, by Ray's cloudpickle, so that functions of notebooks travel, too."""
    from ray import cloudpickle

    work: bytes = cloudpickle.dumps(value)  # type: ignore[no-untyped-call]
    return work
