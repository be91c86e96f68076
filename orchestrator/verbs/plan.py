"""`orchestrate plan`: check a job and say what it will do; starts nothing, and makes nothing."""

from collections.abc import Sequence

from orchestrator.config import JobConfig
from orchestrator.plan.planning import LABEL, foresee
from orchestrator.terminal import say


def main(
    config: JobConfig, overrides: Sequence[str], asked: float, *, with_data: bool = False
) -> int:
    """Print the plan; returns the exit code. Raises ValueError if the job can't work.

    What this machine lacks for the job is a note below the plan. `with_data` makes the data, as
    `run` would, and counts it.
    """
    for line in foresee(config, say, with_data=with_data).lines():
        say(line, hang=LABEL)
    return 0
