"""How units of work are carried out, and how far they have come.

A Runner calls a function with each of some arguments, anywhere and in any order, and gives the
results in order of the arguments. `inline` is the one that needs nothing; pools of many
workers are the caller's.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from data.messages import Passing, clock, counted, size

Say = Callable[[str], None]
SAY_EVERY_S = 2.0


class Runner(Protocol):
    """Carries out units of work."""

    def __call__(
        self,
        function: Callable[[Any], Any],
        arguments: Sequence[Any],
        on_result: Callable[[int, Any], None],
    ) -> list[Any]:
        """The results in order; `on_result` gets index and result of each as it comes."""


def inline(
    function: Callable[[Any], Any], arguments: Sequence[Any], on_result: Callable[[int, Any], None]
) -> list[Any]:
    """One after the other, in this process."""
    results = []
    for index, argument in enumerate(arguments):
        results.append(function(argument))
        on_result(index, results[-1])
    return results


class UnitProgress:
    """Says how far some units of work have come, every couple of seconds."""

    def __init__(self, what: str, units: int, say: Say, done: int = 0) -> None:
        """`done` of the units were done before and cost no time now."""
        self._what, self._units, self._say = what, units, say
        self._before = self._done = done
        self._bytes = 0
        self._begun = self._said = time.monotonic()
        if done:
            say(f"{what}: {done} of {units} units were done before")
        if done < units:
            say(Passing(f"{what}: {counted(units - done, 'unit')}"))

    def __call__(self, index: int, result: Any) -> None:
        """A unit is done; its result says how many bytes of text it had."""
        self._done += 1
        self._bytes += result["text_bytes"]
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_S and self._done < self._units:
            self._said = now
            seconds = now - self._begun
            left = seconds / (self._done - self._before) * (self._units - self._done)
            line = (
                f"{self._what}: {self._done} of {self._units} units, {size(self._bytes)}, "
                f"{size(self._bytes / seconds)}/s, {clock(left)} left"
            )
            self._say(Passing(line))


def read_progress(texts: Iterable[str], total: int, what: str, say: Say) -> Iterator[str]:
    """The texts, of `total` UTF-8 bytes; says every couple of seconds how many were taken."""
    done, said = 0, time.monotonic()
    say(Passing(f"{what}: 0% of the text read"))
    for text in texts:
        yield text
        done += len(text.encode("utf-8"))
        if (now := time.monotonic()) - said >= SAY_EVERY_S:
            said = now
            say(Passing(f"{what}: {done / total:.0%} of the text read"))
    say(Passing(f"{what}: all of the text read, joining pairs of tokens"))
