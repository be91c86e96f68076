"""What a plan said and what came of it; a calibration learns from the difference."""

from dataclasses import dataclass
from pathlib import Path

from data.messages import size
from orchestrator.plan import calibration
from orchestrator.plan.forecast import forecast, kind_of, started
from orchestrator.plan.planning import Plan
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
        learns: whether nothing disturbed the run, so that it teaches the calibration something.
    """
    scored = score(plan, measured)
    if not scored:
        return []
    journal.metrics(journal.standing.step, metrics(scored))
    shown, path = rows(scored), folder / TABLE
    runfolder.write_table(path, COLUMNS, shown)
    journal.event("artifact", path=path.name, table=True)
    if learns:
        learn(plan, scored, measured.memory)
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
    if own.peak and measured.memory:
        found.append(Scored("memory_bytes", own.peak, measured.memory))
    return tuple(found)


def learn(plan: Plan, scored: tuple[Scored, ...], memory: float | None) -> None:
    """Keep what an undisturbed run has taught, for runs of its kind on this machine."""
    own = calibration.load()  # another run may have taught it something meanwhile
    steps = next((each for each in scored if each.name == "step_seconds"), None)
    if own is None or steps is None or plan.outline.steps < LEAST_STEPS:
        return
    if plan.config.resources.device != "cpu":
        return
    own = own.learn_time(kind_of(plan.config, plan.outline), steps.measured / steps.planned)
    told = forecast(plan.config, plan.outline, plan.hardware)
    if memory is not None and told.peak is not None and told.libraries is not None:
        beyond = max(0.0, memory - (told.peak - told.libraries))
        own = own.learn_memory(started(plan.config), beyond)
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
