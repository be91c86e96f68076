"""Which values a trial gets, and whether it is worth going on with; the home of optuna.

Optuna proposes, and knows nothing but what it is told here: a study in memory is made of the rows
of the sweep's table, in their order. Every proposal is drawn with a seed of its own, that of the
sweep and the number of the trial, so a study that was made again goes on as the first would have.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.verbs.sweep.settings import Settings
from orchestrator.verbs.sweep.space import Axis, Choices, Numbers, Point, Space, Value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

ETA = {"asha": 4, "hyperband": 3}
"""One of so many trials goes on at each rung, with so many times the steps."""
STARTUP = 10  # trials at random before tpe and gp have something to go by
EXCESS = "excess"  # attribute of a trial: how far it is beyond each constraint
LEAST_OF_IMPORTANCE = 10  # finished trials per setting that differs


@dataclass(frozen=True)
class Course:
    """When trials report, in optimizer steps."""

    every: int | None
    """Between two evaluations. None: at the end alone."""
    steps: int
    """Of a whole trial."""


class Proposer:
    """Proposes the trials of a sweep, and says which to end early."""

    def __init__(
        self, space: Space, settings: Settings, directions: Sequence[str], course: Course, seed: int
    ) -> None:
        """Nothing is known yet.

        Args:
            space: of the sweep.
            settings: of the sweep, whose sampler is one that can take the space (`check_sampler`).
            directions: of the objectives, `lower` or `higher`.
            course: when trials report.
            seed: of the sweep.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._settings, self._seed = space, settings, seed
        self._distributions = {axis.name: _distribution(axis) for axis in space.axes}
        self._storage = optuna.storages.InMemoryStorage()
        self._study: Study = optuna.create_study(
            storage=self._storage,
            study_name="sweep",  # by which hyperband deals out its brackets
            directions=["minimize" if own == "lower" else "maximize" for own in directions],
            pruner=_pruner(settings.pruner, course),
        )
        self._running: dict[int, Trial] = {}
        if settings.sampler == "grid":
            assert space.size is not None  # which `check_sampler` has seen to
            self._order = np.arange(space.size)
            # Who ends trials early by those before them takes these for a sample of all (Li et al.
            # 2020, A System for Massively Parallel Hyperparameter Tuning). In the order of a grid
            # each may well be better than all before it, and none would be ended.
            if settings.pruner in ("asha", "hyperband", "median"):
                self._order = np.random.default_rng(seed).permutation(space.size)

    def propose(self, number: int) -> tuple[Point, dict[str, Any]]:
        """The point of a new trial, and what the sampler wants to be told of it again.

        Trials are numbered from 0 on and proposed in this order; of a grid there are as many as it
        has points.
        """
        if self._settings.sampler in ("tpe", "cmaes", "gp"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is experimental in optuna is tested here
                self._study.sampler = self._sampler(number)
                trial = self._study.ask(self._distributions)
            self._running[number] = trial
            point = {axis.name: trial.params[axis.name] for axis in self._space.axes}
            return point, dict(self._storage.get_trial(trial._trial_id).system_attrs)
        point = self._drawn(number)
        self.known(number, point, {})
        return point, {}

    def known(self, number: int, point: Point, attributes: dict[str, Any]) -> None:
        """Take in a trial that was proposed, here or before."""
        self._study.sampler = _given(point)
        trial = self._study.ask(self._distributions)
        for name, value in attributes.items():
            self._storage.set_trial_system_attr(trial._trial_id, name, value)
        self._running[number] = trial

    def report(self, number: int, step: int, value: float) -> bool:
        """Take in what a trial has measured on its way; whether it should end now."""
        if self._settings.pruner in ("none", "pbt"):
            return False
        trial = self._running[number]
        trial.report(value, step)
        return trial.should_prune()

    def ended(
        self, number: int, status: str, values: Sequence[float], excess: Sequence[float]
    ) -> None:
        """Take in how a trial ended: `done` with its values, `pruned`, or otherwise without."""
        from optuna.trial import TrialState

        states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
        trial = self._running.pop(number)
        trial.set_user_attr(EXCESS, list(excess))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._study.sampler = self._sampler(number)  # which notes whether constraints are kept
            state = states.get(status, TrialState.FAIL)
            told = list(values) if state is TrialState.COMPLETE else None
            self._study.tell(trial, told, state=state)

    def importance(self) -> dict[str, float]:
        """The share of each setting in what makes trials good, by PED-ANOVA (Watanabe et al. 2023).

        Raises:
            ValueError: there are too few finished trials to tell; the message has the numbers.
        """
        from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
        from optuna.trial import TrialState

        finished = len(self._study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]))
        needed = LEAST_OF_IMPORTANCE * len(self._space.axes)
        if finished < needed:
            raise ValueError(
                f"{finished} finished trials are too few to tell which of "
                f"{len(self._space.axes)} settings matter; {needed} would do"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = get_param_importances(
                self._study,
                evaluator=PedAnovaImportanceEvaluator(),
                target=lambda trial: trial.values[0],
            )
        return dict(found)

    def _drawn(self, number: int) -> Point:
        axes = len(self._space.axes)
        if self._settings.sampler == "grid":
            return self._space.at(int(self._order[number]))
        if self._settings.sampler == "sobol":
            from scipy.stats.qmc import Sobol

            points = Sobol(axes, scramble=True, rng=self._seed)
            if number:
                points.fast_forward(number)
            return self._space.place(points.random()[0].tolist())
        draw = np.random.default_rng([self._seed, number])
        return self._space.place(draw.random(axes).tolist())

    def _sampler(self, number: int) -> "BaseSampler":
        from optuna.samplers import CmaEsSampler, GPSampler, RandomSampler, TPESampler

        seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        excess = _excess if self._settings.constraints else None
        if self._settings.sampler == "tpe":
            return TPESampler(seed=seed, n_startup_trials=STARTUP, constraints_func=excess)
        if self._settings.sampler == "gp":
            return GPSampler(seed=seed, n_startup_trials=STARTUP, constraints_func=excess)
        if self._settings.sampler == "cmaes":
            return CmaEsSampler(seed=seed, warn_independent_sampling=False)
        return RandomSampler(seed=seed)


def check_sampler(space: Space, settings: Settings) -> None:
    """Raise ValueError if the sampler can't take the space, or has not enough of it."""
    sampler, size = settings.sampler, space.size
    if sampler == "grid" and size is None:
        endless = next(axis.name for axis in space.axes if axis.count is None)
        raise ValueError(
            f"sampler=grid tries every value, and {endless} is an interval; list its values, or "
            "try sampler=tpe"
        )
    numbers = [axis for axis in space.axes if isinstance(axis, Numbers)]
    if sampler == "cmaes" and len(numbers) < 2:
        named = ", ".join(axis.name for axis in space.axes)
        raise ValueError(
            f"sampler=cmaes searches in at least 2 intervals or ranges, and of {named} there are "
            f"{len(numbers)}; try sampler=tpe"
        )


def _distribution(axis: Axis) -> "BaseDistribution":
    """An axis as optuna has it."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(axis, Choices):
        return CategoricalDistribution(list(axis.words))
    if axis.whole:
        low, high, step = round(axis.low), round(axis.high), round(axis.step or 1)
        return IntDistribution(low, high, log=axis.log, step=step)
    return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)


def _pruner(name: str, course: Course) -> "BasePruner":
    from optuna import pruners

    if name == "asha":
        return pruners.SuccessiveHalvingPruner(
            min_resource=course.every or course.steps, reduction_factor=ETA[name]
        )
    if name == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=course.every or course.steps,
            max_resource=course.steps,
            reduction_factor=ETA[name],
        )
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=4)
    return pruners.NopPruner()


def _given(point: Point) -> "BaseSampler":
    """A sampler that proposes this point."""
    from optuna.samplers import PartialFixedSampler, RandomSampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fixed: dict[str, Value] = dict(point)
        return PartialFixedSampler(fixed, RandomSampler(seed=0))


def _excess(trial: "FrozenTrial") -> Sequence[float]:
    """How far a trial is beyond each constraint; one that has measured none breaks them."""
    found: list[float] = trial.user_attrs.get(EXCESS, [])
    return found or [1.0]
