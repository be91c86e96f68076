"""What several jobs take one after another: a row for each, and what is known of the sum."""

from collections.abc import Mapping

from data.messages import counted
from orchestrator.plan.forecast import forecast
from orchestrator.plan.planning import Plan
from orchestrator.plan.showing import duration, hours
from orchestrator.terminal import columns

HEAD = ("job", "parameters", "operations", "steps", "s/step", "time", "effort")
UNKNOWN = "?"


def table(jobs: Mapping[str, Plan | str]) -> list[str]:
    """A line for each job, and one for all of them.

    Args:
        jobs: by name the plan, or why there is none yet.
    """
    rows: list[tuple[str, ...]] = [HEAD]
    whole = spent = 0.0
    unknown: dict[str, list[str]] = {}
    for name, plan in jobs.items():
        if isinstance(plan, str):
            unknown.setdefault(plan, []).append(name)
            rows.append((name, *[UNKNOWN] * (len(HEAD) - 1)))
            continue
        config, outline = plan.config, plan.outline
        own = forecast(config, outline, plan.hardware)
        seconds = None if own.step_seconds is None else outline.steps * own.step_seconds
        time = effort = UNKNOWN
        if seconds is None:
            unknown.setdefault(f"time {own.why}", []).append(name)
        else:
            effort_s = seconds * config.workers
            gpus = config.resources.gpus_per_worker
            effort_s *= gpus or config.resources.cpus_per_worker
            time = duration(seconds)
            effort = f"{hours(effort_s / 3600)} {'GPU' if gpus else 'core'}-hours"
            whole, spent = whole + seconds, spent + effort_s
        rows.append(
            (
                name,
                f"{plan.parameters:,}",
                UNKNOWN if outline.flops is None else f"{outline.flops:.3g}",
                f"{outline.steps:,}",
                UNKNOWN if own.step_seconds is None else f"{own.step_seconds:.3g}",
                time,
                effort,
            )
        )
    known = len(jobs) - sum(map(len, unknown.values()))
    effort = f", {hours(spent / 3600)} hours of cores or GPUs" if known else ""
    return [
        *columns(rows),
        *(f"{', '.join(names)}: {why}" for why, names in unknown.items()),
        f"{counted(known, 'job')} of {len(jobs)}: {duration(whole)}{effort}, without starts, "
        "evaluations and saves",
    ]
