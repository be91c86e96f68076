"""Where the workers of a job run."""

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

    def __post_init__(self) -> None:
        """Check ranges and choices."""
        check_choice("resources.launcher", self.launcher, ("ray", "inline"))
        check_at_least("resources.workers", self.workers, 1)
        check_at_least("resources.cpus_per_worker", self.cpus_per_worker, 1)
        if self.gpus_per_worker not in (0, 1):
            raise ValueError(f"resources.gpus_per_worker={self.gpus_per_worker} must be 0 or 1")

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        if self.launcher == "inline":
            return {"address": "resources.launcher=inline starts no Ray; try resources=auto"}
        return {}

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if self.gpus_per_worker else "cpu"
