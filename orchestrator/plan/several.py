"""What several jobs take together: a row for each or for all that are alike, and their sum."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.messages import counted, size
from orchestrator.plan.forecast import USABLE, Forecast, forecast
from orchestrator.plan.planning import Plan
from orchestrator.plan.showing import duration, hours
from orchestrator.terminal import columns

COLUMNS = ("parameters", "operations", "steps", "s/step", "time", "effort")
UNKNOWN = "?"


@dataclass(frozen=True)
class Taken:
    """What one job takes. None: not known."""

    forecast: Forecast
    seconds: float | None
    """Of all steps."""
    effort: float | None
    """Seconds of cores, or of GPUs."""
    cells: tuple[str, ...]
    """As COLUMNS."""


def taken(plan: Plan) -> Taken:
    """Of a plan."""
    config, outline = plan.config, plan.outline
    own = forecast(config, outline, plan.hardware)
    seconds = effort = None
    time = spent = each = UNKNOWN
    if own.step_seconds is not None:
        seconds = outline.steps * own.step_seconds
        gpus = config.resources.gpus_per_worker
        effort = seconds * config.workers * (gpus or config.resources.cpus_per_worker)
        time, each = duration(seconds), f"{own.step_seconds:.3g}"
        spent = f"{hours(effort / 3600)} {'GPU' if gpus else 'core'}-hours"
    operations = UNKNOWN if outline.flops is None else f"{outline.flops:.3g}"
    cells = f"{plan.parameters:,}", operations, f"{outline.steps:,}", each, time, spent
    return Taken(own, seconds, effort, cells)


def table(jobs: Mapping[str, Plan | str]) -> list[str]:
    """A line for each job, and one for all of them, one after another.

    Args:
        jobs: by name the plan, or why there is none yet.
    """
    rows: list[tuple[str, ...]] = [("job", *COLUMNS)]
    whole = spent = 0.0
    unknown: dict[str, list[str]] = {}
    for name, plan in jobs.items():
        if isinstance(plan, str):
            unknown.setdefault(plan, []).append(name)
            rows.append((name, *[UNKNOWN] * len(COLUMNS)))
            continue
        own = taken(plan)
        rows.append((name, *own.cells))
        if own.seconds is None or own.effort is None:
            unknown.setdefault(f"time {own.forecast.why}", []).append(name)
        else:
            whole, spent = whole + own.seconds, spent + own.effort
    known = len(jobs) - sum(map(len, unknown.values()))
    effort = f", {hours(spent / 3600)} hours of cores or GPUs" if known else ""
    return [
        *columns(rows),
        *(f"{', '.join(names)}: {why}" for why, names in unknown.items()),
        f"{counted(known, 'job')} of {len(jobs)}: {duration(whole)}{effort}, without starts, "
        "evaluations and saves",
    ]


def trials(plans: Sequence[Plan], room: int | None) -> list[str]:
    """A line for all jobs that take the same, the smallest first, and what all of them take.

    Args:
        plans: in the order in which they begin.
        room: how many go on at once, each on cores or GPUs of its own. None: not known.
    """
    found = [taken(plan) for plan in plans]
    order = sorted(range(len(plans)), key=lambda n: (plans[n].parameters, plans[n].outline.steps))
    counts: dict[tuple[str, ...], int] = {}
    for own in (found[n] for n in order):
        cells = (*own.cells, _worker(own.forecast))
        counts[cells] = counts.get(cells, 0) + 1
    head = "trials", *COLUMNS[:-2], "time of each", "effort of each", "memory of a worker"
    lines = columns([head, *((str(count), *cells) for cells, count in counts.items())])
    unknown: dict[str, int] = {}
    for own in found:
        if own.seconds is None:
            unknown[own.forecast.why] = unknown.get(own.forecast.why, 0) + 1
    lines += [f"time of {counted(count, 'trial')} {why}" for why, count in unknown.items()]
    if not unknown:
        last = ends([own.seconds or 0.0 for own in found], room or 1)
        spent = sum(own.effort or 0.0 for own in found)
        how = "one after another" if room in (None, 1) else f"{room} at once"
        lines.append(
            f"{counted(len(plans), 'trial')}, {how}: {duration(last)}, {hours(spent / 3600)} hours "
            "of cores or GPUs, without starts, evaluations and saves"
        )
    if room is None:
        lines.append("how many go on at once is not known: the queue decides")
    return [*lines, *_at_once(plans, found, room or 1)]


def ends(seconds: Sequence[float], room: int) -> float:
    """When the last of some jobs ends, if each begins as soon as one of `room` places is free."""
    places = [0.0] * room
    for each in seconds:
        heapq.heappush(places, heapq.heappop(places) + each)
    return max(places)


def _worker(own: Forecast) -> str:
    """The most bytes of one, as far as they are known."""
    if own.needed is None:
        return UNKNOWN
    if own.peak is None:
        return f"{size(own.needed)} and libraries"
    return size(own.peak)


def _at_once(plans: Sequence[Plan], found: Sequence[Taken], room: int) -> list[str]:
    """Whether this machine holds the largest of them together; nothing if that is not known."""
    peaks = [
        plan.config.workers * own.forecast.peak
        for plan, own in zip(plans, found, strict=True)
        if own.forecast.peak is not None and own.forecast.limit is not None
    ]
    limit = plans[0].hardware.host_bytes
    if limit is None or len(peaks) < len(plans) or plans[0].config.resources.device != "cpu":
        return []
    most = sum(sorted(peaks)[-room:])
    verdict = "fits into" if most <= USABLE * limit else "DOES NOT FIT into"
    largest = "the largest" if room == 1 else f"the largest {room} together"
    return [f"memory of {largest}: {size(most)}, which {verdict} {USABLE:.0%} of {size(limit)}"]
