"""What a sweep is told beside its jobs: words without a dot, of which none is a job's setting."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from data.messages import did_you_mean

SAMPLERS = ("grid", "random", "sobol", "tpe", "cmaes", "gp")
PRUNERS = ("none", "asha", "hyperband", "median", "pbt")
LAUNCHERS = ("processes", "queue")
GRID_MOST = 10_000  # jobs
DIRECTIONS = ("lower", "higher")
BOUND = re.compile(r"\s*([\w/@.-]+)\s*(<=|>=)\s*(\S+)\s*")


@dataclass(frozen=True)
class Constraint:
    """What a trial must keep to be the best one."""

    metric: str
    sign: str
    bound: float

    def excess(self, value: float) -> float:
        """How far a value is beyond the bound; up to 0 it keeps it, and NaN does not."""
        found = value - self.bound if self.sign == "<=" else self.bound - value
        return math.inf if math.isnan(found) else found

    def __str__(self) -> str:
        """As it was typed."""
        return f"{self.metric}{self.sign}{self.bound:g}"


@dataclass(frozen=True)
class Settings:
    """Of a sweep. All of them are texts and numbers that may stand in conf/sweep/NAME.yaml."""

    sampler: str | None = None
    """grid, random, sobol, tpe, cmaes or gp. None: grid where every value is listed, else tpe."""
    trials: int | None = None
    """How many, without repeats. None: the whole grid; 20 of another sampler."""
    pruner: str = "none"
    """none, asha, hyperband or median: what ends a trial early that does not get on, by its
    evaluations. pbt: it goes on from the checkpoint of a better one, with other values."""
    objective: str | None = None
    """METRIC, METRIC:higher or METRIC:lower; several, with commas, have no single best. None: what
    stage.keep_best goes by."""
    constraint: str | None = None
    """METRIC<=NUMBER or METRIC>=NUMBER, several with commas: what the best trial must keep."""
    parallel: str | int = "auto"
    """Trials at once. auto: as many as the cores, or GPUs, of this machine, or of the cluster, have
    room for."""
    launcher: str = "processes"
    """processes of this machine, which stay warm; or queue: trials are jobs of the cluster that
    `orchestrate up` has started, and go on when this terminal is closed."""
    seeds: int = 1
    """The best few run again until each has so many seeds: how much of the ranking is noise."""
    failures: int | None = None
    """Failed trials that end the sweep. None: a quarter of all, at least 3."""
    name: str | None = None
    """Of the sweep and its folder. None: a random one."""

    def __post_init__(self) -> None:
        """Check ranges and choices."""
        if self.sampler is not None:
            _check_choice("sampler", self.sampler, SAMPLERS)
        _check_choice("pruner", self.pruner, PRUNERS)
        _check_choice("launcher", self.launcher, LAUNCHERS)
        if self.launcher == "queue" and self.pruner == "pbt":
            raise ValueError(
                "launcher=queue lets trials go on while they are compared, and pruner=pbt has them "
                "stand still; leave it out, or try pruner=asha"
            )
        for setting in ("trials", "seeds", "failures"):
            _check_count(setting, getattr(self, setting), example=3)
        if self.parallel != "auto":
            _check_count("parallel", self.parallel, example=2, other="auto")
        if self.name is not None and not re.fullmatch(r"\w[\w.-]*", self.name):
            raise ValueError(
                f"name={self.name} is part of a folder's name: letters, digits and _.- alone; try "
                f"name={re.sub(r'[^-_.a-zA-Z0-9]+', '_', self.name).strip('.-_') or 'mine'}"
            )
        _ = self.objectives, self.constraints  # which raise
        if self.pruner != "none" and len(self.objectives) > 1:
            raise ValueError(
                f"pruner={self.pruner} compares trials by one number, and objective="
                f"{self.objective} has {len(self.objectives)}; leave the pruner out, or name one"
            )
        if self.sampler == "cmaes" and len(self.objectives) > 1:
            raise ValueError(
                f"sampler=cmaes takes one objective, and objective={self.objective} has "
                f"{len(self.objectives)}; try sampler=tpe"
            )

    @property
    def objectives(self) -> list[tuple[str, str | None]]:
        """Metric and direction of each. None: the stage knows it."""
        found: list[tuple[str, str | None]] = []
        for text in split(self.objective):
            metric, _, direction = text.partition(":")
            if not metric or (":" in text and direction not in DIRECTIONS):
                raise ValueError(
                    f"objective={self.objective}: {text} must be METRIC, METRIC:lower or "
                    "METRIC:higher; try objective=validation/loss:lower"
                )
            found.append((metric, direction or None))
        return found

    @property
    def constraints(self) -> list[Constraint]:
        """What the best trial must keep."""
        found = []
        for text in split(self.constraint):
            parts = BOUND.fullmatch(text)
            try:
                if parts is None:
                    raise ValueError
                found.append(Constraint(parts[1], parts[2], float(parts[3])))
            except ValueError:
                raise ValueError(
                    f"constraint={text} must be METRIC<=NUMBER or METRIC>=NUMBER; try "
                    "'constraint=train/seconds<=60'"
                ) from None
        return found


def split(text: str | None) -> list[str]:
    """The parts of a setting with commas."""
    return [] if text is None else [part.strip() for part in text.strip("[]").split(",")]


CHOICES = {"sampler": SAMPLERS, "pruner": PRUNERS, "launcher": LAUNCHERS}
NAMES = tuple(field.name for field in fields(Settings))


def read(words: Iterable[str]) -> Settings:
    """The settings that were typed; of one that was typed twice, the last.

    Raises:
        ValueError: one has no such value.
    """
    given: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        value: Any = None if text in ("null", "None", "") else text.strip("'\"")
        whole = name in ("trials", "seeds", "failures", "parallel")
        given[name] = int(text) if whole and re.fullmatch(r"-?\d+", text) else value
        if value is None and name in ("pruner", "parallel", "seeds", "launcher"):
            raise ValueError(f"{word} has no value; leave it out for its default")
    return Settings(**given)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise ValueError(f"{name}={value} is not one of {', '.join(choices)}{hint}")


def _check_count(name: str, value: Any, example: int, other: str | None = None) -> None:
    if value is not None and (not isinstance(value, int) or value < 1):
        also = f", or {name}={other}" if other else ""
        raise ValueError(
            f"{name}={value} must be a whole number of at least 1; try {name}={example}{also}"
        )
