"""The job as a rank sees it: what a stage may ask of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from cluster.heart import Heart
from orchestrator.record.clock import Clock
from orchestrator.record.fencing import Fence
from orchestrator.training import distributed


@dataclass(frozen=True)
class Run:
    """The job as a stage sees it. Every rank has one; only rank 0's records are kept."""

    folder: Path
    """The run folder, on a file system that all ranks see."""
    device: torch.device
    """Of this rank."""
    send: Callable[[dict[str, Any]], None]
    """Hands one plain record to the driver; never blocks."""
    should_stop: Callable[[], bool]
    """Whether this process was asked to save a checkpoint and leave."""
    cache: Path
    """Root of the cache on this host, where the files are that the driver made ready."""
    fence: Fence | None = None
    """This attempt's right to write to the run folder. None: nobody else can."""
    pictures: bool = True
    """Whether what the stage measures is drawn, too; the trials of a sweep are drawn together."""
    sync: Callable[[], None] = lambda: None
    """Returns when what this rank has recorded is on the disk."""
    heart: Heart = field(default_factory=Heart)
    """Told what this rank is busy with."""
    clock: Clock = field(default_factory=Clock)
    """Tells when something was recorded; a clock that is set meanwhile changes nothing."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record metrics of an optimizer step."""
        self._record({"step": step, "metrics": metrics})

    def event(self, kind: str, **facts: Any) -> None:
        """Record that something happened once."""
        self._record({"event": kind, **facts})

    def _record(self, record: dict[str, Any]) -> None:
        if distributed.rank() == 0:
            self.send({"time_ms": self.clock.now_ms(), **record})
