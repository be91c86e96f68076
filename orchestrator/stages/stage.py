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
class Work:
    """What a step asks of a model, for each of its samples."""

    rows: float = 1.0
    """Rows of tokens of a sample that go through it: 2 of a pair."""
    passes: int = 1
    """Forward and backward passes of a row; 0 of a model that stays as it is."""
    text: int = 0
    """Tokens of a row of text that each of these passes takes along, which nobody has written."""
    looks: int = 0
    """Forward passes of a row without a gradient."""
    written: int = 0
    """Tokens at the end of a row that it writes itself, one after another."""
    writers: int = 0
    """Processes of their own in which it does so. 0: the workers do."""
    block: int | None = None
    """Tokens of a block of their cache, where it is kept in blocks, as vLLM does. None: it is not,
    and they are ours."""
    ahead: bool = False
    """Whether those write the next step's rows while the workers learn."""
    updates: int = 1
    """Optimizer steps of a step."""
    loss: str = "summed"
    """What its loss is made of: summed, the sum over tokens; losses, that of each token; scores,
    log-probability and entropy of each (models/loss.py)."""
    scored: int | None = None
    """Most tokens of a row that the loss is about. None: all may be."""
    averaged: bool = False
    """Whether a moving average of its weights is kept beside them."""

    @property
    def trips(self) -> int:
        """`passes`, and those of text."""
        return self.passes * (2 if self.text else 1)


LOOKED_AT = Work(passes=0, looks=1, updates=0)
"""Of a model that is asked once for each row, and stays as it is."""


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
    work: Work = Work()

    @classmethod
    def of(cls, role: RoleConfig, work: Work | None = None) -> "RoleOutline":
        """That of a role; without a work it learns once from each sample, or is asked once."""
        model, usual = role.model, LOOKED_AT if role.optim is None else Work()
        sizes = cost.parameters(model), cost.largest_layer(model)
        return cls(role, *sizes, work=work or usual)

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
    """Tokens of a row as its models read it, filled up to the longest beside it, on the average; 1
    for examples without tokens. None: not known."""
    longest: int | None = None
    """Most tokens of a row. None: as `length`."""
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
