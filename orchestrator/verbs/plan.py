"""`orchestrate plan`: check a job and say what it will do; starts nothing."""

from collections.abc import Sequence

from cluster.gang import GangRefused
from orchestrator.config import JobConfig
from orchestrator.plan.planning import DiskTooSmall, make_plan, validate


def main(config: JobConfig, overrides: Sequence[str], since: float) -> int:
    """Print the plan; returns the exit code. Raises ValueError if the job can't work.

    A job for more than this machine has is still worked out, as far as that goes without it.
    """
    try:
        plan, _ = validate(config, print)
    except (GangRefused, DiskTooSmall):
        print("\n".join(make_plan(config, None).lines()), flush=True)
        raise
    print("\n".join(plan.lines()))
    return 0
