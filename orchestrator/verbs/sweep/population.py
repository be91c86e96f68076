"""Population based training: the worse trials go on from the better ones, with other values.

At every evaluation the whole population stands still. Of its worst quarter each is ended, and in
its place another trial goes on from the checkpoint of one of the best quarter, with values near its
own (Jaderberg et al., Population Based Training of Neural Networks, 2017: truncation selection,
perturbation by 0.8 or 1.2). All draws follow from the seed and the number of the new trial.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from orchestrator.config import Change, JobConfig, kind_of
from orchestrator.verbs.sweep.space import Axis, Choices, Numbers, Point, Space, Value
from orchestrator.verbs.sweep.table import PAUSED, Trial

QUARTER = 4
FACTORS = (0.8, 1.2)
ANEW = 0.25
"""How often a value is drawn anew instead, as in the paper's table of settings."""


def check_changes(space: Space, job: JobConfig) -> None:
    """Raise ValueError for a setting that a run that goes on can't change."""
    for axis in space.axes:
        for name in axis.name.split("|"):
            kind = kind_of(name, job.stage.changes) if "." in name else Change.FIXED
            if kind not in (Change.FREE, Change.MATHEMATICS):
                raise ValueError(
                    f"pruner=pbt changes values on the way, and {name} can't be changed in a run "
                    "that goes on; let trials differ in settings such as optim.learning_rate or "
                    "model.dropout, or try pruner=asha"
                )


def current(trials: Sequence[Trial]) -> list[Trial]:
    """The newest trial of each member."""
    return list({trial.member: trial for trial in trials if trial.member is not None}.values())


def paused(trials: Sequence[Trial]) -> list[Trial]:
    """Those that stand still, to be compared."""
    return [trial for trial in trials if trial.status is None and trial.stopped == PAUSED]


def successors(trials: Sequence[Trial], step: int, lower: bool) -> dict[int, list[Trial]]:
    """By the number of each trial that is to be replaced after a step, the better ones.

    It follows from the reports alone, so it is the same after a part of it was carried out.
    """
    own = [t for t in trials if t.member is not None and step in t.reports and t.begun_at < step]
    ordered = sorted(own, key=lambda t: (t.reports[step] if lower else -t.reports[step], t.number))
    some = len(ordered) // QUARTER or (1 if len(ordered) > 1 else 0)
    return {trial.number: ordered[:some] for trial in ordered[len(ordered) - some :] if some}


def choose(count: int, seed: int, number: int) -> int:
    """Which of so many better ones the trial of this number goes on from."""
    return int(np.random.default_rng([seed, number, count]).integers(count))


def explored(space: Space, point: Mapping[str, Value], seed: int, number: int) -> Point:
    """A point near another, for the trial of this number."""
    draw = np.random.default_rng([seed, number])
    return {axis.name: _near(axis, point[axis.name], draw) for axis in space.axes}


def words(space: Space, point: Point, origin: Trial) -> list[str]:
    """What is typed for a trial that goes on from another with these values."""
    names = ",".join(name for axis in space.axes for name in axis.name.split("|"))
    return [
        f"resume={origin.folders[-1]}",
        *space.own_words(point),
        f"allow_changes=[{names}]",
    ]


def _near(axis: Axis, value: Value, draw: np.random.Generator) -> Value:
    anew, up = draw.random(2)
    if anew < ANEW:
        return axis.place(float(draw.random()))
    if isinstance(axis, Choices):
        places = list(axis.words)
        there = places.index(str(value)) + (1 if up < 0.5 else -1)
        return places[min(max(there, 0), len(places) - 1)]
    assert isinstance(axis, Numbers)
    factor = FACTORS[int(up < 0.5)]
    return axis.nearest(float(value) * factor)
