"""What runs have taught about those to come: times by kind of job, bytes of a rank's libraries.

A file in the cache, by the name of the machine. On CPUs it counts where the machine is still the
same; what was learned of a GPU stands under the GPU's name.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data.files import cache_root, read_json, write_text_atomic
from data.messages import counted, size
from orchestrator.plan.calibration import FOLDER, machine

MOST = 2.0  # by which what was learned may change a prediction, or divide it
KEEPS = 0.5  # of what was learned before, when a run has taught something new


@dataclass(frozen=True)
class Learned:
    """What runs of one kind have taught."""

    value: float
    """Measured / predicted time of a step, between 1 / MOST and MOST; or, where nothing predicts
    it, operations of a worker per second."""
    runs: int

    def and_by(self, value: float) -> "Learned":
        """With what one more run tells."""
        both = KEEPS * math.log(self.value) + (1 - KEEPS) * math.log(value)
        return Learned(math.exp(both), self.runs + 1)


@dataclass(frozen=True)
class Lessons:
    """Of the runs on one machine."""

    machine: dict[str, Any] = field(default_factory=machine)
    steps: dict[str, Learned] = field(default_factory=dict)
    """Measured / predicted time of a step, by kind of job."""
    paces: dict[str, Learned] = field(default_factory=dict)
    """Operations of a worker per second, by kind of job and size of its steps, where nothing
    predicts one."""
    libraries: dict[str, float] = field(default_factory=dict)
    """Bytes of a rank's process that no formula tells, by launcher, engine and precision."""

    def process(self, started: str, otherwise: float | None) -> float | None:
        """Bytes of a rank's process that no formula tells, by what started it.

        Where no run has taught that, of ranks that differ in precision alone, else `otherwise`.
        """
        alike = started.rpartition(" ")[0]
        near = [most for name, most in self.libraries.items() if name.rpartition(" ")[0] == alike]
        return self.libraries.get(started, max(near, default=otherwise or 0.0) or None)

    def learn_time(self, kind: str, ratio: float) -> "Lessons":
        """With measured / predicted time of a step of a run of this kind."""
        before = self.steps.get(kind)
        step = min(max(ratio * (before.value if before else 1.0), 1 / MOST), MOST)
        new = Learned(step, 1) if before is None else before.and_by(step)
        return replace(self, steps={**self.steps, kind: new})

    def learn_pace(self, kind: str, pace: float) -> "Lessons":
        """With the operations of a worker per second in a run of this kind."""
        before = self.paces.get(kind)
        new = Learned(pace, 1) if before is None else before.and_by(pace)
        return replace(self, paces={**self.paces, kind: new})

    def learn_memory(self, started: str, beyond: float) -> "Lessons":
        """With the bytes that a rank had beyond what formulas tell."""
        if (before := self.libraries.get(started)) is not None:
            beyond = KEEPS * before + (1 - KEEPS) * beyond
        return replace(self, libraries={**self.libraries, started: beyond})

    def lines(self) -> list[str]:
        """What was learned, for a reader."""
        return [
            *(
                f"{kind}: steps x {own.value:.2f}, learned from {counted(own.runs, 'run')}"
                for kind, own in self.steps.items()
            ),
            *(
                f"{kind}: {own.value / 1e9:.3g} GFLOP/s of a worker, learned from "
                f"{counted(own.runs, 'run')}"
                for kind, own in self.paces.items()
            ),
            *(
                f"a rank of {own}: {size(most)} of libraries"
                for own, most in self.libraries.items()
            ),
        ]

    def save(self) -> Path:
        """Write it into the cache; returns the file."""
        path = file()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, json.dumps(asdict(self), indent=1))
        return path


def file() -> Path:
    """Where the lessons of this machine are."""
    return cache_root() / FOLDER / f"{os.uname().nodename}.lessons.json"


def load() -> Lessons:
    """Those of this machine; none yet, or of another machine of this name, are empty ones."""
    try:
        plain = read_json(file())
        steps, paces = (_learned(plain.pop(name)) for name in ("steps", "paces"))
        own = Lessons(**plain, steps=steps, paces=paces)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Lessons()
    return own if own.machine == machine() else Lessons()


def _learned(plain: Mapping[str, Any]) -> dict[str, Learned]:
    return {kind: Learned(**own) for kind, own in plain.items()}
