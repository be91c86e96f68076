"""What a plan said and what came of it; those to come learn from the difference."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.messages import size
from orchestrator.plan import lessons
from orchestrator.plan.forecast import forecast, kind_of, operations, pace_kind, started
from orchestrator.plan.planning import Plan
from orchestrator.plan.timing import seconds_of
from orchestrator.record import runfolder
from orchestrator.record.journal import Journal

LEAST_STEPS = 20  # of a run that teaches something: the first ones are slower
TABLE = "plan.json"
COLUMNS = ("what", "planned", "measured", "error")


@dataclass(frozen=True)
class Scored:
    """One number of a plan."""

    name: str
    """As metrics have it."""
    planned: float
    measured: float

    @property
    def error(self) -> float:
        """Planned / measured - 1."""
        return self.planned / self.measured - 1


@dataclass(frozen=True)
class Measured:
    """What a run has taken."""

    step_seconds: float | None
    """The median over the steps that count. None: there were none."""
    part_seconds: Mapping[str, float]
    """The same of the parts of a step, where the stage tells them: rollout, scoring, update."""
    memory: float | None
    """The most bytes of rank 0. None: not known."""


def record(
    plan: Plan, measured: Measured, journal: Journal, folder: Path, learns: bool
) -> list[str]:
    """Put on record how good a plan was, as metrics and as a table; returns it for the screen.

    Args:
        plan: of the job.
        measured: what came of it.
        journal: of the run.
        folder: of the run, which gets the table.
        learns: whether nothing disturbed the run, so that it teaches something.
    """
    scored = score(plan, measured)
    if learns:
        learn(plan, scored, measured)
    if not scored:
        return []
    journal.metrics(journal.standing.step, metrics(scored))
    shown, path = rows(scored), folder / TABLE
    runfolder.write_table(path, COLUMNS, shown)
    journal.event("artifact", path=path.name, table=True)
    return ["{}: planned {}, measured {}, {}".format(*row) for row in shown]


def score(plan: Plan, measured: Measured) -> tuple[Scored, ...]:
    """What was planned and could be measured."""
    own, step_seconds = forecast(plan.config, plan.outline, plan.hardware), measured.step_seconds
    found = []
    if own.step_seconds and step_seconds:
        found.append(Scored("step_seconds", own.step_seconds, step_seconds))
        if (tokens := plan.outline.tokens_per_step) is not None:
            rates = tokens / own.step_seconds, tokens / step_seconds
            found.append(Scored("tokens_per_second", *rates))
        for part, took in measured.part_seconds.items():
            if planned := getattr(own.seconds, part, 0.0):
                found.append(Scored(f"{part}_seconds", planned, took))
    if own.peak and measured.memory:
        found.append(Scored("memory_bytes", own.peak, measured.memory))
    return tuple(found)


def learn(plan: Plan, scored: tuple[Scored, ...], measured: Measured) -> None:
    """Keep what an undisturbed run has taught, for runs of its kind here or on such GPUs."""
    config, outline, on = plan.config, plan.outline, plan.hardware
    if outline.steps < LEAST_STEPS or not measured.step_seconds:
        return
    own = lessons.load()  # another run may have taught something meanwhile
    kind, told = kind_of(config, outline, on), forecast(config, outline, on)
    steps = next((each for each in scored if each.name == "step_seconds"), None)
    if steps is not None and seconds_of(config, outline, on).seconds is not None:
        own = own.learn_time(kind, steps.measured / steps.planned)
    elif each := operations(outline, config.workers):
        own = own.learn_pace(pace_kind(kind, each), each / measured.step_seconds)
    on_cpu, needed = config.resources.device == "cpu", told.needed
    if on_cpu and measured.memory is not None and needed is not None:
        own = own.learn_memory(started(config), max(0.0, measured.memory - needed))
    own.save()


def metrics(scored: tuple[Scored, ...]) -> dict[str, float]:
    """For the record: each number as planned, as measured, and its error."""
    found = {}
    for own in scored:
        found[f"plan/{own.name}"] = own.planned
        found[f"plan/{own.name}_measured"] = own.measured
        found[f"plan/{own.name}_error"] = own.error
    return found


def rows(scored: tuple[Scored, ...]) -> tuple[tuple[str, ...], ...]:
    """For a reader."""
    return tuple(
        (
            own.name.replace("_", " "),
            _shown(own.name, own.planned),
            _shown(own.name, own.measured),
            f"{own.error:+.1%}",
        )
        for own in scored
    )


def _shown(name: str, value: float) -> str:
    return size(value) if name.endswith("bytes") else f"{value:,.3g}"
