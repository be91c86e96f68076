"""Where the time of a step goes: to answers, to looks at them, to what is learned from them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

MEASURED = ("rollout", "scoring")
UPDATE = "update"


class StepClock:
    """Counts seconds by part of a step."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._spent = dict.fromkeys(MEASURED, 0.0)

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Count the seconds of the block to one of the parts that are measured."""
        begun = time.perf_counter()
        yield
        self._spent[part] += time.perf_counter() - begun

    def take(self, step_seconds: float) -> dict[str, float]:
        """The metrics of a step that took so long, whose rest are updates; begin at 0 again."""
        rest = step_seconds - sum(self._spent.values())
        parts = {"step": step_seconds, **self._spent, UPDATE: rest}
        self._spent = dict.fromkeys(MEASURED, 0.0)
        return {f"train/{part}_seconds": own for part, own in parts.items()}
