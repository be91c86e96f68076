"""One worker of a pool as the driver sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.ending import end_workers
from cluster.pulse import Pulse
from cluster.worker import Record


@dataclass
class Slot:
    """A worker as the driver sees it; a successor takes over number and log."""

    number: int
    log: Path
    actor: Any
    described: Any
    """Call that tells host, node and pid."""
    begun: Any
    """Call that tells the size the log had before."""
    pulse: Pulse
    works: bool = False
    """Whether it has a place and is set up."""
    units: dict[Any, int] = field(default_factory=dict)
    """Calls under way, the oldest first, and the index of the unit that each carries out."""
    memory_kills: int | None = None
    """In its memory group, by its last answer."""

    def describe(self, ray: ModuleType) -> Record | None:
        """Who the worker is, or was; None if it did not live to tell."""
        worker = _told(ray, self.described)
        return None if worker is None else worker | {"log_begins_at": _told(ray, self.begun) or 0}


def end_slots(ray: ModuleType, slots: Sequence[Slot]) -> None:
    """End the workers of these slots with all that they started."""
    if slots:
        workers = [worker for slot in slots if (worker := slot.describe(ray)) is not None]
        end_workers(ray, [slot.actor for slot in slots], workers)


def _told(ray: ModuleType, call: Any) -> Any:
    try:
        return ray.get(call, timeout=0)
    except ray.exceptions.RayError:
        return None
