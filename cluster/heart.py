"""How far a worker's target has come, as it says itself: the driver tells a hang by it."""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field

KEPT = 32  # durations of each phase, for the median

START = "start"


SAMPLE_S = 0.25
"""Of a host's time that a rank's own work is told for, at least. A host that gives a process a part
of its time only gives it in turns of up to 0.1 s, in which quick steps are as quick as ever."""


@dataclass(frozen=True)
class Progress:
    """Where a worker stands when it is polled."""

    phase: str = START
    """What it does: START until the first beat, then what the beat has named."""
    step: int = 0
    """The step it is in."""
    beats: int = 0
    """So far; of ranks that do the same, the one with the fewest is behind."""
    usual_s: dict[str, float] = field(default_factory=dict)
    """Median seconds from one beat to the next, by phase."""
    own_s: tuple[tuple[int, float], ...] = ()
    """Of the steps done since the last poll, what each took of the rank's own work, in seconds, by
    its number; of steps shorter than SAMPLE_S the mean over so long, by the last one's number."""


class Heart:
    """One attempt's beats; the target calls `beat` and `worked`, the poll takes `progress`."""

    def __init__(self) -> None:
        """Nothing has begun."""
        self._lock = threading.Lock()
        self._phase, self._step, self._beats = START, 0, 0
        self._began = time.monotonic()
        self._durations: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=KEPT))
        self._own: list[tuple[int, float]] = []
        self._sample: list[float] = []  # of the steps since `_sampled`
        self._sampled = -SAMPLE_S

    def beat(self, phase: str, step: int | None = None) -> None:
        """The target begins with something new; None: it is in the same step as before."""
        now = time.monotonic()
        with self._lock:
            if self._phase != START:
                self._durations[self._phase].append(now - self._began)
            self._phase, self._began = phase, now
            self._step = self._step if step is None else step
            self._beats += 1

    def worked(self, step: int, seconds: float) -> None:
        """A step is done, in which the rank's own work took so long; waiting for others is none."""
        now = time.monotonic()
        with self._lock:
            self._sample.append(seconds)
            if now - self._sampled >= SAMPLE_S:
                self._own.append((step, statistics.mean(self._sample)))
                self._sample, self._sampled = [], now

    def progress(self) -> Progress:
        """What to tell the driver now."""
        with self._lock:
            own, self._own = tuple(self._own), []
            usual = {phase: statistics.median(own) for phase, own in self._durations.items()}
            return Progress(self._phase, self._step, self._beats, usual, own)
