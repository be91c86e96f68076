"""`orchestrate plan`: check a job, say what it will do and cost; starts nothing, makes nothing."""

from collections.abc import Sequence

from orchestrator.config import JobConfig
from orchestrator.plan.fitting import changes, fastest
from orchestrator.plan.hardware import asked as hardware_asked
from orchestrator.plan.planning import LABEL, foresee
from orchestrator.plan.waiting import wait_line
from orchestrator.terminal import say


def main(
    config: JobConfig,
    overrides: Sequence[str],
    asked: float,
    *,
    with_data: bool = False,
    gpu: str | None = None,
    mfu: str | None = None,
    prices: str | None = None,
    fit: str | None = None,
) -> int:
    """Print the plan; returns the exit code. Raises ValueError if the job can't work.

    What this machine lacks for the job is a note below the plan. `with_data` makes the data, as
    `run` would, and counts it. The other words: hardware.py, and `fit=true` looks for the settings
    of the fastest job that fits.
    """
    if fit not in (None, "true", "false"):
        raise ValueError(f"fit={fit} must be true or false")
    hardware = hardware_asked(config, gpu, mfu, prices)
    plan = foresee(config, say, with_data=with_data, hardware=hardware)
    for line in plan.lines():
        say(line, hang=LABEL)
    if (wait := wait_line(plan.config)) is not None:
        say(f"{'queue':{LABEL}}{wait}", hang=LABEL)
    found = fastest(plan) if fit == "true" else changes(plan)
    for label, line in zip([found.label, *[""] * len(found.lines)], found.lines, strict=False):
        say(f"{label:{LABEL}}{line}", hang=LABEL)
    return 0
