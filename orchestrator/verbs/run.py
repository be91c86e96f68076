"""`orchestrate run`: one job, here or on the cluster in RAY_ADDRESS."""

from collections.abc import Sequence

from orchestrator import job
from orchestrator.config import JobConfig


def main(config: JobConfig, overrides: Sequence[str], since: float) -> int:
    """Run the job; returns the exit code."""
    return job.execute(config, overrides, since)
