"""Whether a worker that carries out one call at a time still lives: it answers beside the call."""

from __future__ import annotations

import time
from types import ModuleType
from typing import Any

SILENT_AFTER_S = 120.0  # native code may hold the GIL for a while
LISTEN_EVERY_S = 1.0
GROUP = "pulse"
OPTIONS = {"concurrency_groups": {GROUP: 1}}  # of the actor: a thread that is always free to answer


class Pulse:
    """One worker's, as the driver hears it; time in which it did not listen is no silence."""

    def __init__(self, ray: ModuleType, actor: Any) -> None:
        """Nothing is asked yet."""
        self._ray, self._actor = ray, actor
        self._asked: Any = None
        self._listened_at = time.monotonic()
        self.silent_s = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether it has not answered for so long that it is taken for lost. To be asked often."""
        now = time.monotonic()
        passed_s = now - self._listened_at
        if passed_s < LISTEN_EVERY_S:
            return False
        self._listened_at = now
        if self._asked is not None and self._ray.wait([self._asked], timeout=0)[0]:
            self._asked, self.silent_s = None, 0.0  # also if it is dead, which its call tells
        if self._asked is None:
            self._asked = self._actor.poll.options(concurrency_group=GROUP).remote()
        else:
            self.silent_s += min(passed_s, 2 * LISTEN_EVERY_S)
        return self.silent_s > SILENT_AFTER_S
