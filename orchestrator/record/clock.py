"""Time for the record: times of day that never go back, durations that no clock change touches."""

import time


class Clock:
    """Reads the wall clock once, at its start, and from then on follows the monotonic clock.

    A host whose clock is set while a job runs thus neither reorders the record nor stretches a
    duration. What it costs: the times of the job keep the error that the clock had at its start.
    """

    def __init__(self, not_before_ms: int = 0) -> None:
        """Start now, or at `not_before_ms` (since 1970) if the wall clock is behind that."""
        self._begun_ms = max(time.time_ns() // 1_000_000, not_before_ms)
        self._begun = time.monotonic_ns()

    def now_ms(self) -> int:
        """Milliseconds since 1970, the unit of MLflow's timestamps."""
        return self._begun_ms + (time.monotonic_ns() - self._begun) // 1_000_000

    def seconds(self) -> float:
        """Seconds since the start."""
        return (time.monotonic_ns() - self._begun) / 1e9
