"""What a drill is given, and what comes of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.record.checkpoints.finding import find
from orchestrator.verbs.drill.invariants import broken, differences, unlike
from orchestrator.verbs.drill.rehearsal import Child, DrillError, Job, Trial

UNLIKE_IN_FP32, UNLIKE_ELSE = 1e-5, 1e-2  # relative; bf16 rounds to 3 digits


@dataclass
class Outcome:
    """How a drill ended."""

    passed: bool | None
    """None: it was not done, for the reason in `notes`."""
    notes: list[str] = field(default_factory=list)
    """Why it is not passed, or what else is worth knowing."""
    lost_steps: int | None = None
    detect_s: float | None = None
    resume_s: float | None = None
    equal: bool | None = None
    """Whether weights, optimizer and ledger are those of the undisturbed run; None: not compared"""
    run: str | None = None
    """Run folder that ended it."""


@dataclass
class Context:
    """The job that is drilled, as its user typed it, and the harm that was asked for."""

    overrides: Sequence[str]
    config: JobConfig
    folder: Path
    """Where all drills of this command leave their runs."""
    at: int
    """Step after which harm is done."""
    minutes: float
    every_s: float
    """Mean seconds between two faults of a mix."""
    faults: int | None
    """How many a mix has. None: as many as there is time for."""
    seed: int
    within_s: float | None
    """Seconds in which the job must run again. None: those of the drill."""
    say: Callable[[str], None]

    @property
    def training(self) -> TrainingConfig:
        """The stage, which trains."""
        return self.config.section(TrainingConfig)

    @property
    def interval(self) -> int:
        """Most steps between two checkpoints."""
        return self.training.checkpoint_every or self.training.steps

    def job(self, name: str, *more: str, **environment: str) -> Job:
        """The job for a drill; its runs are kept apart from those of others."""
        return Job([*self.overrides, *more], self.folder / name, self.at, environment=environment)

    @cached_property
    def reference(self) -> Child:
        """The job undisturbed, run once. Raises DrillError if it fails by itself."""
        self.say("the job undisturbed, to compare with")
        child = self.job("undisturbed").start()
        try:
            code = child.wait()
            troubles = child.leaks() + (broken(child.run) if code == 0 else [child.last_words()])
        finally:
            child.end()
        if troubles:
            raise DrillError(f"the job has troubles of its own: {'; '.join(troubles)}")
        return child

    @property
    def _most_unlike(self) -> float:
        """By which part the losses of two numbers of workers may differ."""
        engines = [self.config.role(name).engine for name in self.config.role_names]
        exact = all(engine.precision == "fp32" for engine in engines)
        return UNLIKE_IN_FP32 if exact else UNLIKE_ELSE

    def judge(
        self,
        trial: Trial,
        *,
        most_lost: int,
        itself: bool = False,
        within_s: float | None = None,
        more: Sequence[str] = (),
        resized: bool = False,
    ) -> Outcome:
        """Whether a disturbed job came to the same end as the undisturbed one.

        Args:
            trial: what became of it.
            most_lost: steps that may be done again.
            itself: whether it has to go on by itself.
            within_s: seconds from the fault in which it must run again.
            more: what else does not hold.
            resized: whether it went on with another number of workers: the order of sums differs,
                so the losses are compared, and not the bits.
        """
        bad = [*trial.troubles, *more]
        if trial.code:
            bad.append(f"it ended with exit code {trial.code}: {trial.child.last_words()}")
            return self._outcome(trial, bad, equal=None)
        ends = find(self.reference.run), find(trial.child.run)
        differing = unlike(*ends, self._most_unlike) if resized else differences(*ends)
        bad += differing
        if trial.lost_steps > most_lost:
            bad.append(f"{trial.lost_steps} steps lost, at most {most_lost} may be")
        if itself and not trial.itself:
            bad.append("it did not go on by itself, and was resumed")
        limit = self.within_s or within_s
        if limit is not None and (trial.resume_s or 0.0) > limit:
            bad.append(f"it ran again after {trial.resume_s:.1f} s, more than {limit:g} s")
        return self._outcome(trial, bad, equal=not differing)

    def _outcome(self, trial: Trial, bad: list[str], equal: bool | None) -> Outcome:
        return Outcome(
            passed=not bad,
            notes=bad or ([] if trial.itself else ["resumed as its user would"]),
            lost_steps=trial.lost_steps,
            detect_s=trial.detect_s,
            resume_s=trial.resume_s,
            equal=equal,
            run=str(trial.child.run),
        )


def failure_of(child: Child) -> dict[str, Any]:
    """The error in its result.json; empty if it has none."""
    error = child.result.get("error")
    return error if isinstance(error, dict) else {}
