"""Where the workers of a job run."""

import math
from dataclasses import dataclass

from orchestrator.config.checks import check_at_least, check_choice


@dataclass
class ResourcesConfig:
    """Where the workers run."""

    launcher: str = "ray"
    """ray (a gang of workers) or inline (this process; one rank of torchrun if it started us)."""
    workers: int = 1
    """Ranks of the job; one per GPU where there are GPUs."""
    cpus_per_worker: int = 1
    """CPU cores that a worker reserves, and threads that it computes with."""
    gpus_per_worker: int = 0
    """0 or 1."""
    address: str | None = None
    """Ray cluster to run on. None: a Ray on this machine that starts and ends with the job."""
    hang_seconds: float | None = 30.0
    """Seconds without progress of any rank after which the workers hang, or five times the usual
    step if that is more. None: nobody looks, as for a debugger in a worker."""

    def __post_init__(self) -> None:
        """Check ranges and choices."""
        check_choice("resources.launcher", self.launcher, ("ray", "inline"))
        check_at_least("resources.workers", self.workers, 1)
        check_at_least("resources.cpus_per_worker", self.cpus_per_worker, 1)
        if self.hang_seconds is not None and not 1 <= self.hang_seconds < math.inf:
            raise ValueError(
                f"resources.hang_seconds={self.hang_seconds:g} must be at least 1; try "
                "resources.hang_seconds=30, or null"
            )
        if self.gpus_per_worker not in (0, 1):
            raise ValueError(f"resources.gpus_per_worker={self.gpus_per_worker} must be 0 or 1")

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        if self.launcher == "inline":
            starts_no = "resources.launcher=inline starts no Ray; try resources=auto"
            return dict.fromkeys(("address", "hang_seconds"), starts_no)
        return {}

    @property
    def hang_after(self) -> float | None:
        """Seconds without progress after which the driver ends the job; None: it does not."""
        return None if self.launcher == "inline" else self.hang_seconds

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if self.gpus_per_worker else "cpu"
