"""The copies of a job's checkpoints behind a URL, as its driver looks after them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.job.signals import Stops
from orchestrator.record.fencing import Fence
from orchestrator.record.redaction import Redactor

if TYPE_CHECKING:
    from orchestrator.record.checkpoints.copying import Copier


class Copies:
    """Those of one job; of a job that names no destination every method does nothing."""

    def __init__(
        self, config: JobConfig, folder: Path, fence: Callable[[], Fence], redactor: Redactor
    ) -> None:
        """Begin, in a thread; see `Copier`."""
        stage = config.stage
        self.where: str | None = None
        """The run folder there, once all is copied."""
        self._copier: Copier | None = None
        if isinstance(stage, TrainingConfig) and stage.checkpoints_to is not None:
            from orchestrator.record.checkpoints.copying import Copier

            self._copier = Copier(folder, stage.checkpoints_to, fence, redactor)
            self._copier.start()

    def wake(self) -> None:
        """A checkpoint was published."""
        if self._copier is not None:
            self._copier.wake()

    def news(self) -> Iterator[dict[str, Any]]:
        """What happened since the last call, as events for the journal. Never waits."""
        if self._copier is not None:
            yield from self._copier.news()

    def finish(self, stops: Stops, phase: Callable[[str], None]) -> Iterator[dict[str, Any]]:
        """Wait for what is not copied yet, unless Ctrl-C ends that; what happened, as events."""
        if self._copier is None:
            return
        pending = self._copier.finish(0)
        if pending and not stops.kill.is_set():
            phase(f"copying {', '.join(pending)} to {self._copier.url}")
            try:
                with stops.sending():
                    pending = self._copier.finish()
            except KeyboardInterrupt:
                pending = self._copier.finish(0)
        yield from self._copier.news()
        self.where = None if pending else self._copier.url
        if pending:
            yield {"event": "copy_pending", "url": self._copier.url, "checkpoints": pending}

    def seal(self) -> None:
        """Copy the record with its end, once result.json is written."""
        if self._copier is not None:
            self._copier.seal()
