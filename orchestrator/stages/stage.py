"""What a stage declares to the job around it, and what the two exchange.

The job knows a stage only by this: a config section; a module for the process that starts the job,
with `outline`, `estimate` and `prepare`; and a function that every rank calls.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from data.messages import counted
from models import cost
from models.formulas.adapters import stays
from orchestrator.config import JobConfig, RoleConfig, StageConfig
from orchestrator.record.journal import Journal

if TYPE_CHECKING:
    from orchestrator.record.checkpoints import Checkpoint
    from orchestrator.stages.result import Result
    from orchestrator.stages.run import Run

Say = Callable[[str], None]


@dataclass(frozen=True)
class RoleOutline:
    """A model of the job, as far as its settings tell."""

    config: RoleConfig
    """With everything filled in that the model is built from."""
    parameters: int
    largest_layer: int
    """Parameters of the module that holds the most by itself."""
    by_hand: str | None = None
    """What carries it out, if that is no engine."""

    @property
    def trained(self) -> int:
        """Parameters that learn, if any do."""
        model = self.config.model
        return self.parameters - (cost.parameters(model) - cost.trained_parameters(model))

    @property
    def line(self) -> str:
        """The model in a line of a plan."""
        model = self.config.model
        few = "" if self.trained == self.parameters else f", {self.trained:,} of them trained"
        kept = "; they can't be merged, and stay beside the weights" if stays(model) else ""
        return f"{model.family}, {self.parameters:,} parameters{few}{kept}"


@dataclass(frozen=True)
class Shown:
    """A metric on the screen."""

    metric: str
    """Its name in the record."""
    text: str
    """How a value reads, as a format: "loss {:.3f}"."""
    rate: bool = False
    """Whether it is smoothed over steps."""


@dataclass(frozen=True)
class Score:
    """The metric that tells which of two runs is the better one."""

    metric: str
    """Its name in the record."""
    lower_is_better: bool = True


@dataclass(frozen=True)
class Outline:
    """What a job will do, from its settings alone or with what its inputs add."""

    steps: int
    """How far the progress bar goes."""
    lines: Mapping[str, str]
    """The plan's first lines, by their label."""
    roles: Mapping[str, RoleOutline]
    training: tuple[Shown, ...] = ()
    """What the screen shows of each step, what matters most first."""
    evaluation: tuple[Shown, ...] = ()
    """What it shows of an evaluation; the first tells that there was one."""
    tokens_per_step: int | None = None
    """Tokens predicted in a step, over all ranks. None: the stage does not count in tokens."""
    flops: float | None = None
    """Floating-point operations of the whole job, forward and backward (models/cost.py)."""
    length: float | None = None
    """Tokens of a sample as its models read it, on the average; 1 for examples without tokens.
    None: not known."""
    notes: tuple[str, ...] = ()
    """What an estimate makes doubtful."""
    score: Score | None = None
    """What runs are ranked by. None: nothing is measured that would rank them."""


def step_line(config: JobConfig, sample: str) -> str:
    """How the samples of an optimizer step are cut over micro-steps and workers."""
    batch = config.batch
    return (
        f"{counted(batch.micro, sample)} x {counted(batch.accumulation_steps, 'micro-step')} x "
        f"{counted(config.workers, 'worker')} = {counted(batch.step, sample)}"
    )


@dataclass(frozen=True)
class Ready:
    """What has been made for a job before its ranks start."""

    outline: Outline
    inputs: Any
    """What every rank gets; plain data that pickles."""
    record: Callable[[Journal, Path], None]
    """Puts the inputs on record, in the journal and the run folder."""
    files: tuple[Path, ...] = ()
    """Folders and files under the cache that the ranks open."""


class Driver(Protocol):
    """A stage's module for the process that starts the job; it imports no torch at its top."""

    def outline(self, config: JobConfig) -> Outline:
        """The job from its settings alone. Raises ValueError for what can't work."""

    def estimate(self, config: JobConfig, start: "Checkpoint | None") -> Outline:
        """The job with what a look at its inputs tells; nothing is made, and little is read.

        With inputs that are ready it is the outline that `prepare` gives.
        """

    def prepare(self, config: JobConfig, start: "Checkpoint | None", say: Say) -> Ready:
        """Make what the ranks need, or find it made; `start` is the checkpoint to resume.

        Raises ValueError for inputs that can't be used, with nothing started.
        """


@dataclass(frozen=True)
class Stage:
    """One stage in the table of them."""

    section: type[StageConfig]
    """Its settings."""
    driver_module: str
    """Has `outline`, `estimate` and `prepare`, see Driver."""
    rank_function: str
    """MODULE:FUNCTION that every rank calls; its module is imported in workers only."""

    @property
    def driver(self) -> Driver:
        """The stage's part in this process, imported now."""
        return cast(Driver, importlib.import_module(self.driver_module))

    @property
    def carry_out(self) -> "Callable[[JobConfig, Any, Run], Result]":
        """What every rank calls with the job, the inputs made by `prepare`, and its run."""
        module, _, name = self.rank_function.partition(":")
        function: Callable[[JobConfig, Any, Run], Result]
        function = getattr(importlib.import_module(module), name)
        return function
