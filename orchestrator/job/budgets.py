"""How often a run may start again after each class of failure, and how long it waits before."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config import RecoveryConfig
from orchestrator.job.failures import Explanation


@dataclass
class Budgets:
    """How many restarts each class of failure has had since there was a new checkpoint."""

    config: RecoveryConfig

    def __post_init__(self) -> None:
        """Nothing has failed yet."""
        self._spent: dict[str, int] = {}
        self._from_step = -1
        self._last: tuple[str, int] | None = None

    def charge(self, failure: Explanation, step: int, from_step: int) -> float | None:
        """Seconds to wait before the restart after this failure. None: the run ends with it.

        Args:
            failure: what ended the attempt.
            step: the last step that was done.
            from_step: the step of the newest checkpoint, from which the run would go on.
        """
        if from_step > self._from_step:
            self._spent, self._from_step = {}, from_step
        cause, now = failure.failure, (failure.message, step)
        spent, again = self._spent.get(cause, 0), now == self._last
        self._last = now
        if sum(self._spent.values()) >= self.config.max_restarts:
            return None
        if spent >= self.config.restarts(cause):
            return None
        # An error of the code before any step was done is there to be mended, not tried again.
        if cause == "user_error" and (again or step <= from_step):
            return None
        self._spent[cause] = spent + 1
        return self.config.wait_s(cause, spent)
