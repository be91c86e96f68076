"""`orchestrate plan`: check a job and say what it will do; starts nothing."""

from collections.abc import Sequence

from cluster.gang import GangRefused
from orchestrator.config import JobConfig
from orchestrator.plan.outputs import DiskTooSmall
from orchestrator.plan.planning import make_plan, rough_plan


def main(config: JobConfig, overrides: Sequence[str], asked: float) -> int:
    """Print the plan; returns the exit code. Raises ValueError if the job can't work.

    A job for more than this machine has is still worked out, as far as that goes without it.
    """
    try:
        plan = make_plan(config, print)
    except (GangRefused, DiskTooSmall):
        print("\n".join(rough_plan(config).lines()), flush=True)
        raise
    print("\n".join(plan.lines()))
    return 0
