"""What a run does after a failure: how often it starts again, by the class of what went wrong."""

from dataclasses import dataclass, field

from data.messages import did_you_mean
from orchestrator.config.checks import check_at_least


@dataclass(frozen=True)
class Budget:
    """What a class of failures is granted."""

    restarts: int
    """In a row, without a new checkpoint between them."""
    wait_s: float
    """Seconds before the first of them; each further one waits twice as long as the last."""
    remedy: str
    """What the run does about it; of a class without restarts, why there are none."""


AGAIN = "another attempt with the same workers"
RENEWED = "new processes in place of all workers"
BUDGETS = {
    "interrupted": Budget(0, 0, "someone wanted it to stop"),
    "disk": Budget(3, 1, "going on where there is room again"),
    "numerical": Budget(0, 0, "training is exact: the same step diverges again"),
    "not_shared": Budget(0, 0, "the same hosts see the same folders"),
    "no_room": Budget(0, 0, "it has waited as long as it may"),
    "fenced": Budget(0, 0, "the run is in other hands"),
    "bad_data": Budget(0, 0, "the same bytes are read again"),
    "user_error": Budget(1, 0, AGAIN),
    "out_of_memory": Budget(1, 0, RENEWED),
    "unknown": Budget(2, 1, AGAIN),
    "start": Budget(3, 5, AGAIN),
    "storage": Budget(10, 5, AGAIN),
    "network": Budget(5, 1, "new connections between all workers"),
    "hardware": Budget(3, 5, RENEWED),
    "worker_lost": Budget(5, 0, "a new worker in the place of the lost one"),
    "hang": Budget(3, 0, "a new worker in the place of the one that does not answer"),
    "node_lost": Budget(10, 0, "going on without the lost node"),
    "preemption": Budget(100, 0, "going on without what must leave"),
}
"""By class of failure, as result.json and the events name it. A slow rank (straggler) and a
tracking server that is away are told, and end no attempt."""


@dataclass
class RecoveryConfig:
    """How a run goes on by itself after a failure, from its newest checkpoint."""

    max_restarts: int = 20
    """Restarts in a row without a new checkpoint between them, whatever their causes. 0: the first
    failure ends the run."""
    budgets: dict[str, int] = field(default_factory=dict)
    """Restarts in a row by the class of their cause, where another number than the built-in one
    is wanted: {worker_lost: 3}."""
    longest_wait_seconds: float = 300
    """Most that is waited before a restart; waits of one cause double up to this."""
    disk_wait_minutes: float | None = 60
    """Most that is waited for room on the disk of the run, if it is full. None: for ever."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        check_at_least("recovery.max_restarts", self.max_restarts, 0)
        check_at_least("recovery.longest_wait_seconds", self.longest_wait_seconds, 0)
        if self.disk_wait_minutes is not None:
            check_at_least("recovery.disk_wait_minutes", self.disk_wait_minutes, 0)
        for name, restarts in self.budgets.items():
            if name not in BUDGETS or name == "interrupted":
                names = [own for own in BUDGETS if own != "interrupted"]
                hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
                raise ValueError(f"recovery.budgets.{name}={restarts} is no class of failure{hint}")
            check_at_least(f"recovery.budgets.{name}", restarts, 0)

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        if self.max_restarts:
            return {}
        why = "recovery.max_restarts=0 restarts nothing; try recovery=auto"
        return dict.fromkeys(("budgets", "longest_wait_seconds", "disk_wait_minutes"), why)

    def restarts(self, cause: str) -> int:
        """How often in a row the run may start again after failures of this class."""
        return min(self.max_restarts, self.budgets.get(cause, BUDGETS[cause].restarts))

    def wait_s(self, cause: str, restarts: int) -> float:
        """Seconds to wait after a failure of this class that was met by so many restarts before."""
        return min(self.longest_wait_seconds, BUDGETS[cause].wait_s * 2.0**restarts)
