"""Where the workers of a job run."""

import math
from dataclasses import dataclass
from typing import Any

from orchestrator.config.checks import check_at_least, check_choice


@dataclass
class ResourcesConfig:
    """Where the workers run."""

    launcher: str = "ray"
    """ray (a gang of workers) or inline (this process; one rank of torchrun if it started us)."""
    workers: Any = 1
    """Ranks of the job; one per GPU where there are GPUs. [LEAST,MOST]: as many as there is room
    for and as divide the global batch; fewer when a node is lost, more when one comes."""
    cpus_per_worker: int = 1
    """CPU cores that a worker reserves, and threads that it computes with."""
    gpus_per_worker: int = 0
    """0 or 1."""
    address: str | None = None
    """Ray cluster to run on. None: a Ray on this machine that starts and ends with the job."""
    wait_minutes: float | None = 60
    """Minutes to wait for room in the cluster, at the start and after a node is lost, and for a
    cluster that is lost itself. None: for ever."""
    hang_seconds: float | None = 27.0
    """Seconds without progress of any rank after which the workers hang, or 4.5 times the usual
    step if that is more. None: nobody looks, as for a debugger in a worker."""

    def __post_init__(self) -> None:
        """Check ranges and choices."""
        check_choice("resources.launcher", self.launcher, ("ray", "inline"))
        self._check_workers()
        if self.wait_minutes is not None:
            check_at_least("resources.wait_minutes", self.wait_minutes, 0)
        check_at_least("resources.cpus_per_worker", self.cpus_per_worker, 1)
        if self.hang_seconds is not None and not 1 <= self.hang_seconds < math.inf:
            raise ValueError(
                f"resources.hang_seconds={self.hang_seconds:g} must be at least 1; try "
                "resources.hang_seconds=27, or null"
            )
        if self.gpus_per_worker not in (0, 1):
            raise ValueError(f"resources.gpus_per_worker={self.gpus_per_worker} must be 0 or 1")

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        if self.launcher == "inline":
            why = "resources.launcher=inline starts no Ray; try resources=auto"
            return dict.fromkeys(("address", "wait_minutes", "hang_seconds"), why)
        return {}

    @property
    def least(self) -> int:
        """The fewest workers that the job may have."""
        return int(self.workers if isinstance(self.workers, int) else self.workers[0])

    @property
    def most(self) -> int:
        """The most workers that the job may have."""
        return int(self.workers if isinstance(self.workers, int) else self.workers[1])

    @property
    def text(self) -> str:
        """The workers as they are typed."""
        return str(self.workers).replace(" ", "")

    @property
    def hang_after(self) -> float | None:
        """Seconds without progress after which the driver ends the job; None: it does not."""
        return None if self.launcher == "inline" else self.hang_seconds

    def _check_workers(self) -> None:
        given = self.workers if isinstance(self.workers, list) else [self.workers]
        whole = all(isinstance(own, int) and not isinstance(own, bool) for own in given)
        if not whole or len(given) != (2 if isinstance(self.workers, list) else 1):
            raise ValueError(
                f"resources.workers={self.workers} must be a whole number, or two of them; try "
                "resources.workers=2 or resources.workers=[1,4]"
            )
        check_at_least("resources.workers", min(given), 1)
        if given[0] > given[-1]:
            least, most = given[::-1]
            raise ValueError(
                f"resources.workers={self.text} must begin with the fewer workers; try "
                f"resources.workers=[{least},{most}]"
            )
        if self.launcher == "inline" and len(given) == 2:
            raise ValueError(
                f"resources.workers={self.text} is for a gang that may grow and shrink; "
                f"resources.launcher=inline has as many as torchrun has started; leave it out"
            )

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if self.gpus_per_worker else "cpu"
