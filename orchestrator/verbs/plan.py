"""`orchestrate plan`: check a job and say what it will do; starts nothing."""

from collections.abc import Sequence

from orchestrator.config import JobConfig
from orchestrator.plan import validate


def main(config: JobConfig, overrides: Sequence[str]) -> int:
    """Print the plan; returns the exit code."""
    plan, _ = validate(config, print)
    print("\n".join(plan.lines()))
    return 0
