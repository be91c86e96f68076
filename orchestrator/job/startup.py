"""Where the time went from Enter to the first optimizer step."""

import time
from dataclasses import dataclass, field


@dataclass
class Startup:
    """Phases of the start, in seconds of the monotonic clock of the driver."""

    asked: float
    """When the user asked for the job, by `time.monotonic`; see `orchestrator.BEGUN`."""
    phases: list[tuple[str, float]] = field(default_factory=list)
    """Name and begin of each."""

    def __post_init__(self) -> None:
        """Begin with what came before this process could say anything."""
        self.phases.append(("command line and config", self.asked))

    def enter(self, name: str) -> None:
        """A phase begins now."""
        self.phases.append((name, time.monotonic()))

    def parts(self) -> tuple[float, dict[str, float]]:
        """Seconds until now, and of each phase."""
        now = time.monotonic()
        ends = [begin for _, begin in self.phases[1:]] + [now]
        pairs = zip(self.phases, ends, strict=True)
        return now - self.asked, {name: round(end - begin, 1) for (name, begin), end in pairs}
