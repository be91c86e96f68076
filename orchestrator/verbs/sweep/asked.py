"""What a sweep was asked for, checked, and kept in sweep.json of its folder for who goes on."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from data.files import DataError, read_json, write_text_atomic
from data.messages import clock, counted, listed
from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.plan.planning import rough_plan
from orchestrator.record.sweeps import ASKED
from orchestrator.verbs.sweep.population import check_changes
from orchestrator.verbs.sweep.proposals import Course, check_sampler
from orchestrator.verbs.sweep.settings import GRID_MOST, Settings
from orchestrator.verbs.sweep.space import Choices, Numbers, Point, Space

TRIALS = 20  # of a sampler that could go on for ever, where nothing is said
PROBED = 200  # values that are tried before the start
INLINE = "resources.launcher=inline"

Job = Callable[[Sequence[str]], JobConfig]


@dataclass(frozen=True)
class Asked:
    """A sweep, with all that its settings left open filled in."""

    space: Space
    settings: Settings
    objectives: list[tuple[str, str]]
    """Metric, and `lower` or `higher`, of each."""
    course: Course
    seed: int
    """Of the proposals: that of the jobs."""
    outputs: str
    command: list[str]
    """What was typed."""
    config_dir: str | None

    @property
    def trials(self) -> int:
        """Without repeats."""
        assert self.settings.trials is not None
        return self.settings.trials

    @property
    def failures(self) -> int:
        """Failed trials that end the sweep."""
        return self.settings.failures or max(3, -(-self.trials // 4))

    def save(self, folder: Path) -> None:
        """Write sweep.json."""
        plain = {name: value for name, value in vars(self).items() if name != "space"}
        plain |= {"settings": asdict(self.settings), "course": asdict(self.course)}
        text = json.dumps({"space": self.space.plain(), **plain}, indent=1)
        write_text_atomic(folder / ASKED, text)

    @classmethod
    def load(cls, folder: Path) -> "Asked":
        """Read it. Raises ValueError if there is none."""
        try:
            said: dict[str, Any] = read_json(folder / ASKED)
            space = Space.of(said.pop("space"))
            settings, course = Settings(**said.pop("settings")), Course(**said.pop("course"))
            objectives = [(metric, direction) for metric, direction in said.pop("objectives")]
            return cls(space, settings, objectives, course, **said)
        except (DataError, TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"--resume={folder} holds no {ASKED} of `orchestrate sweep` ({error}); name the "
                "folder of a sweep, outputs/DATE/TIME-sweep-NAME"
            ) from None

    def lines(self) -> list[str]:
        """The sweep as short lines of text."""
        settings, size = self.settings, self.space.size
        points = "" if size is None else f" of {counted(size, 'point')}"
        ends = {
            "none": "",
            "pbt": "; the worst go on from the checkpoints of the best, with other values",
        }
        pruner = ends.get(settings.pruner, f"; {settings.pruner} ends those that do not get on")
        shown = {
            "differ in": "\n".join(map(_shown, self.space.axes)),
            "sampler": f"{settings.sampler}, {counted(self.trials, 'trial')}{points}{pruner}",
            "objective": ", ".join(f"{own}, {better} is better" for own, better in self.objectives),
        }
        if settings.constraint:
            shown["constraint"] = ", ".join(map(str, settings.constraints))
        return [
            f"{label if not number else '':12}{line}"
            for label, text in shown.items()
            for number, line in enumerate(text.splitlines())
        ]


def fill_in(
    space: Space, settings: Settings, command: Sequence[str], config_dir: str | None, job: Job
) -> tuple[Asked, list[JobConfig]]:
    """Check a sweep and decide what its settings left open; also some jobs of it.

    Raises:
        ValueError: it can't work, and nothing was started.
    """
    if not space.axes:
        raise ValueError(
            "no setting has several values, so there is nothing to sweep; try "
            "optim.learning_rate='tag(log,interval(1e-4,1e-2))', or model.layers=2,4"
        )
    space, settings = _with_sampler(space, settings)
    jobs = probe(space, job)
    stage, config = jobs[0].stage, jobs[0]
    if not isinstance(stage, TrainingConfig):
        raise ValueError(
            f"stage={stage.name} trains nothing, so its jobs have no objective; try "
            "`orchestrate run --multirun`, which runs one for each value"
        )
    known = stage.measures_of(config)
    wanted = settings.objectives or [(stage.compared_by, None)]
    objectives = [(own, better or known.get(own) or "lower") for own, better in wanted]
    _check_reports(settings, stage)
    if settings.seeds > 1 and any(axis.name == "seed" for axis in space.axes):
        raise ValueError(
            f"seeds={settings.seeds} repeats the best trials with other seeds, and seed is what "
            "trials differ in; leave one of them out"
        )
    if settings.pruner == "pbt":
        check_changes(space, config)
        if settings.seeds > 1:
            raise ValueError(
                f"seeds={settings.seeds} repeats trials from step 0, and those of pruner=pbt are "
                "made of several; leave seeds out, and repeat the whole sweep with another seed"
            )
    course = Course(stage.evaluate_every, stage.steps)
    asked = Asked(
        space,
        settings,
        objectives,
        course,
        config.seed,
        config.outputs,
        list(command),
        config_dir,
    )
    return asked, jobs


def _with_sampler(space: Space, settings: Settings) -> tuple[Space, Settings]:
    """With the sampler and the number of trials. Raises ValueError if they can't be had."""
    size = space.size
    grid = settings.sampler == "grid" or (settings.sampler is None and settings.trials is None)
    if size is not None and size > GRID_MOST and grid:
        counts = " x ".join(f"{axis.count:,}" for axis in space.axes)
        raise ValueError(
            f"the grid has {counts} = {size:,} points, and {GRID_MOST:,} trials are the most; "
            "list fewer values, or let a sampler choose: sampler=tpe trials=100"
        )
    sampler = settings.sampler
    if sampler is None:
        whole = size is not None and settings.trials in (None, size)
        sampler = "grid" if whole else "tpe"
    settings = replace(settings, sampler=sampler)
    check_sampler(space, settings)
    trials = settings.trials or (size if sampler == "grid" else TRIALS)
    assert trials is not None
    if sampler == "grid" and size is not None and trials > size:
        raise ValueError(
            f"trials={trials} are more than the {size} points of the grid; leave trials out, or "
            "try sampler=random"
        )
    return space, replace(settings, trials=trials)


def probe(space: Space, job: Job) -> list[JobConfig]:
    """Jobs with each value of each setting, in which all that can work at all has worked.

    A job of one worker on this machine runs in the process that carries out its trials, without
    Ray, unless what was typed says otherwise.

    Raises:
        ValueError: there is a value with which no job works.
    """
    found: list[JobConfig] = []
    for axis, value, points in islice(space.probes(), PROBED):
        errors = []
        for point in points:
            try:
                found.append(checked(space.words(point), job))
                break
            except ValueError as error:
                errors.append(str(error))
        else:
            typed = " ".join(axis.typed(value))
            raise ValueError(errors[0] if typed in errors[0] else f"{typed}: {errors[0]}")
    return found


def checked(words: Sequence[str], job: Job) -> JobConfig:
    """The job of a trial by its words. Raises ValueError if it can't work."""
    config = job(words)
    typed = {word.partition("=")[0].lstrip("+") for word in words}
    of_ray = {"launcher", "address", "wait_minutes", "hang_seconds"}
    own = any(name == "resources" or name == "recovery" for name in typed) or any(
        name.startswith("recovery.") or name in {f"resources.{own}" for own in of_ray}
        for name in typed
    )
    resources = config.resources
    alone = resources.launcher == "ray" and resources.most == 1 and resources.address is None
    if alone and not own and not any(word.startswith("resume=") for word in words):
        config = job([*words, INLINE])
    rough_plan(config)
    return config


def _check_reports(settings: Settings, stage: TrainingConfig) -> None:
    """Raise ValueError if trials report too seldom for what is to end them early."""
    if settings.pruner == "none":
        return
    every, steps = stage.evaluate_every, stage.steps
    if every is None or every >= steps:
        often = max(1, steps // 10)
        raise ValueError(
            f"pruner={settings.pruner} goes by evaluations before the last step, and "
            f"stage.evaluate_every={'null' if every is None else every} of stage.steps={steps} "
            f"leaves none; try stage.evaluate_every={often}"
        )


def _shown(axis: Choices | Numbers) -> str:
    if isinstance(axis, Choices):
        return f"{axis.name}: {listed(axis.words)}"
    how = ", by factors" if axis.log else ""
    numbers = "whole numbers " if axis.whole else ""
    step = f" in steps of {axis.step:g}" if axis.step not in (None, 1) else ""
    return f"{axis.name}: {numbers}{axis.low:g} to {axis.high:g}{step}{how}"


def took(seconds: float) -> str:
    """A time for the screen, short ones to a tenth of a second."""
    return f"{seconds:.1f} s" if seconds < 60 else clock(seconds)


def point_text(point: Point) -> str:
    """A point for the screen: the last words of its names, four digits."""
    return "  ".join(
        f"{name.rpartition('.')[2] if '|' not in name else ''}"
        f"{'' if '|' in name else '='}"
        f"{f'{value:.4g}' if isinstance(value, float) else value}"
        for name, value in point.items()
    )
