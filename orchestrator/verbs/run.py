"""`orchestrate run`: one job, here or on the cluster in RAY_ADDRESS."""

from collections.abc import Sequence

from orchestrator.config import JobConfig
from orchestrator.job.lifecycle import execute


def main(config: JobConfig, overrides: Sequence[str], asked: float) -> int:
    """Run the job; returns the exit code."""
    return execute(config, overrides, asked)
