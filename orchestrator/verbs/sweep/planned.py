"""`orchestrate sweep --plan`: what the trials of a sweep will take; starts nothing."""

from collections.abc import Sequence

from data.messages import counted
from orchestrator.config import JobConfig
from orchestrator.plan.devices import available
from orchestrator.plan.hardware import here
from orchestrator.plan.planning import Plan, foresee
from orchestrator.plan.several import trials
from orchestrator.verbs.sweep.asked import Asked, Job, checked
from orchestrator.verbs.sweep.launching import room_of
from orchestrator.verbs.sweep.proposals import Proposer
from orchestrator.verbs.sweep.running import TOP

DECIDED = ("grid", "random", "sobol")
"""Samplers that propose the same whatever comes out."""
MOST = 200
"""Trials that are looked at; each takes about 0.1 s."""


def lines(asked: Asked, probes: Sequence[JobConfig], job: Job) -> list[str]:
    """The table of trials, and what is not known of them.

    Args:
        asked: the sweep.
        probes: jobs of it, by the largest of which places are counted.
        job: composes one.
    """
    plans, refused = _plans(asked, job)
    settings = asked.settings
    room = settings.parallel if isinstance(settings.parallel, int) else None
    if room is None and settings.launcher == "processes":
        machine = available(None)
        room = room_of(probes, machine.cpus, machine.gpus)
    return [*(trials(plans, room) if plans else ()), *refused, *_notes(asked)]


def _plans(asked: Asked, job: Job) -> tuple[list[Plan], list[str]]:
    """Those of trials, in order, and why others can't work."""
    directions = [direction for _, direction in asked.objectives]
    proposer = Proposer(asked.space, asked.settings, directions, asked.course, asked.seed)
    plans: list[Plan] = []
    errors: dict[str, int] = {}
    count = min(asked.trials, MOST)
    for number in (n * asked.trials // count for n in range(count)):
        try:
            config = checked(asked.space.words(proposer.propose(number)[0]), job)
            on = here(config)
            plans.append(foresee(config, lambda line: None, with_data=False, hardware=on))
        except ValueError as error:
            errors[str(error)] = errors.get(str(error), 0) + 1
    return plans, [f"{counted(n, 'trial')} can't work: {why}" for why, n in errors.items()]


def _notes(asked: Asked) -> list[str]:
    """What nobody knows before the trials have ended."""
    settings, notes = asked.settings, []
    if asked.trials > MOST:
        notes.append(
            f"these are {MOST} of {asked.trials:,} trials, evenly spread over all; the whole sweep "
            f"takes {asked.trials / MOST:.3g} times as much"
        )
    if settings.sampler not in DECIDED:
        notes.append(
            f"{settings.sampler} goes by what comes out: these are drawn as its first ones are, "
            "before it knows anything"
        )
    if settings.pruner == "pbt":
        notes.append("pbt gives trials other values on their way")
    elif settings.pruner != "none":
        notes.append(f"{settings.pruner} ends trials early, so this is the most that they take")
    if settings.seeds > 1:
        again = min(TOP, asked.trials) * (settings.seeds - 1)
        notes.append(f"{counted(again, 'repeat')} of the best come on top")
    return notes
