"""`orchestrate run`: one job, here or on the cluster in RAY_ADDRESS; --detach: in the queue."""

from collections.abc import Sequence

from orchestrator.config import JobConfig
from orchestrator.job.execute import execute


def main(config: JobConfig, overrides: Sequence[str], asked: float, *, detach: bool = False) -> int:
    """Run the job; returns the exit code."""
    if detach:
        from orchestrator.verbs.submit import detached

        return detached(config, overrides)
    return execute(config, overrides, asked)
