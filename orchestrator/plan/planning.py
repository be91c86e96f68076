"""What a job will do, worked out before it starts, whatever its stage.

Everything that can be refused is refused here, with exit code 2 and nothing started.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cluster.nodes import Devices
from data.addresses import hide
from data.messages import counted, size
from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.plan import showing
from orchestrator.plan.devices import check_compiler, check_fits
from orchestrator.plan.hardware import here
from orchestrator.plan.memory import Memory, memory_of
from orchestrator.plan.outputs import check_disk, check_outputs
from orchestrator.plan.resume import Start, find_start
from orchestrator.plan.timing import Hardware
from orchestrator.plan.weights import find_weights, pinned
from orchestrator.record.checkpoints.cached import cache_entry
from orchestrator.record.mlflow import check_store, new_state, place
from orchestrator.stages import STAGES, Outline, Ready

if TYPE_CHECKING:
    from orchestrator.training.checkpoint import Weights

Found = TypeVar("Found")
LABEL = 12  # columns of the label of a line
STATE_BYTES = 4  # of a number in a checkpoint; fp32 on disk


@dataclass(frozen=True)
class Plan:
    """The arithmetic of a job. What is None was not looked at."""

    config: JobConfig
    outline: Outline
    ready: Ready | None = None
    """What was made for its ranks."""
    free_bytes: int | None = None
    """Of the disk that the checkpoints go to."""
    devices: Devices | None = None
    """What the machine or cluster has."""
    weights: Mapping[str, "Weights"] = field(default_factory=dict)
    """Where roles start from, if not from random weights."""
    start: Start | None = None
    """Where the job goes on. None: at step 0."""
    notes: tuple[str, ...] = ()
    """What is missing here, or in doubt."""
    hardware: Hardware = field(default_factory=Hardware)
    """What the job is taken to run on."""

    @property
    def passed_over(self) -> list[str]:
        """Why newer checkpoints than those that the job takes were not taken."""
        resumed = self.start.checkpoint.passed_over if self.start is not None else ()
        return [*resumed, *(reason for own in self.weights.values() for reason in own.passed_over)]

    @property
    def opened(self) -> tuple[Path, ...]:
        """What the ranks open in the cache: what was made ready, and checkpoints from a URL."""
        found = [own.path for own in self.weights.values()]
        found += [] if self.start is None else [self.start.checkpoint.path]
        fetched = {own for path in found if (own := cache_entry(path)) is not None}
        assert self.ready is not None  # of a plan that was made, see make_plan
        return (*self.ready.files, *sorted(fetched))

    @property
    def parameters(self) -> int:
        """Of all models of the job."""
        return sum(role.parameters for role in self.outline.roles.values())

    @property
    def tokens(self) -> int | None:
        """Tokens predicted in the whole job. None: the stage does not count in tokens."""
        each = self.outline.tokens_per_step
        return None if each is None else each * self.outline.steps

    @property
    def checkpoint_bytes(self) -> int:
        """Size of one checkpoint: of models that are trained, or of what adapts them, with the
        state of their optimizers.
        """
        return sum(
            STATE_BYTES * role.trained * (1 + role.config.optim.kept_at_most + role.work.averaged)
            for role in self.outline.roles.values()
            if role.config.optim is not None
        )

    @property
    def checkpoints_kept(self) -> int:
        """Newest checkpoints that stay on the disk; 0 for a stage that writes none."""
        stage = self.config.stage
        return stage.checkpoints_kept if isinstance(stage, TrainingConfig) else 0

    @property
    def most_checkpoints(self) -> int:
        """Checkpoints on the disk at once: the next is written before the oldest goes."""
        stage = self.config.stage
        if not isinstance(stage, TrainingConfig):
            return 0
        for_ever = stage.steps // stage.keep_every if stage.keep_every is not None else 0
        copied = stage.checkpoints_to is not None  # one is held meanwhile, however old
        most = stage.checkpoints_kept + 1 + stage.keep_best + for_ever + copied
        return most if stage.saves is None else min(stage.saves, most)

    @property
    def disk_bytes(self) -> int:
        """What all checkpoints take at once."""
        return self.most_checkpoints * self.checkpoint_bytes

    def check_disk(self, free: int) -> None:
        """Raise DiskTooSmall unless the checkpoints fit into so many bytes."""
        check_disk(
            self.config.outputs,
            each=self.checkpoint_bytes,
            most=self.most_checkpoints,
            kept=self.checkpoints_kept,
            free=free,
        )

    def check_destination(self) -> None:
        """Raise ValueError if checkpoints can't be copied to where they are to go."""
        stage = self.config.stage
        if isinstance(stage, TrainingConfig) and stage.checkpoints_to is not None:
            from orchestrator.record.checkpoints.destination import Destination

            Destination(stage.checkpoints_to, "stage.checkpoints_to").check()

    def check_compiler(self) -> None:
        """Raise ValueError if a model is to be compiled where there is no compiler."""
        engines = (role.config.engine for role in self.outline.roles.values())
        check_compiler(self.config.resources, engines)

    @property
    def memory(self) -> Memory:
        """State of one worker, all models together."""
        workers = self.config.sizes[-1]  # of whom each has the most
        each = (memory_of(role, workers) for role in self.outline.roles.values())
        return sum(each, Memory())

    def lines(self) -> list[str]:
        """The plan as short lines of text."""
        shown = dict(self.outline.lines)
        if self.start is not None:
            shown |= self.start.lines(self.outline.steps)
        if self.weights:
            shown["weights"] = "\n".join(
                line for role, own in self.weights.items() for line in own.lines(role)
            )
        shown["workers"] = self._workers()
        if self.outline.roles:
            shown |= showing.lines(self.config, self.outline, self.hardware)
        if self.most_checkpoints:
            shown["checkpoints"] = self._checkpoints()
        if early := self._early_end():
            shown["early end"] = early
        shown["record"] = place(self.config.tracking, Path(self.config.outputs))
        own = (self.devices.note,) if self.devices is not None and self.devices.note else ()
        if notes := (*own, *self.notes):
            shown["note"] = "\n".join(notes)
        return [
            f"{label if not number else '':{LABEL}}{line}"
            for label, text in shown.items()
            for number, line in enumerate(text.splitlines())
        ]

    def _workers(self) -> str:
        resources = self.config.resources
        kind = "GPU" if resources.gpus_per_worker else "CPU"
        cores = counted(resources.cpus_per_worker, "core")
        most, *fewer = self.config.sizes
        several = f"{', '.join(map(str, fewer[::-1]))} or " if fewer else ""
        line = f"{several}{most} x {kind} with {cores}"
        for role in self.outline.roles.values():
            if role.by_hand is not None:
                line += f", {role.by_hand}"
                continue
            engine, trained = role.config.engine, role.config.optim is not None
            # A frozen model is whole on every worker but under ZeRO 3.
            zero = engine.name == "deepspeed" and (trained or engine.zero_stage == 3)
            line += f", {f'DeepSpeed ZeRO {engine.zero_stage}' if zero else 'PyTorch'}"
            line += f", {engine.precision}"
        here, beside = self.devices, self.config.stage.processes
        if beside and resources.launcher != "inline":
            line += f"; {counted(beside, 'rollout engine')} beside them, {kind} with {cores} each"
        if here is None:
            return line
        return f"{line}; {here.where} has {counted(here.gpus, 'GPU')}, {counted(here.cpus, 'core')}"

    def _checkpoints(self) -> str:
        stage = self.config.section(TrainingConfig)
        often, minutes = stage.checkpoint_every, stage.checkpoint_every_minutes
        keep = stage.keep_every
        when = [
            *([] if often is None else [f"every {counted(often, 'step')}"]),
            *([] if minutes is None else [f"every {minutes:g} minutes"]),
            *([f"at the best {stage.compared_by}, which stays"] if stage.keep_best else []),
            *([] if keep is None else [f"those of every {counted(keep, 'step')} for ever"]),
        ]
        each = f"{size(self.checkpoint_bytes)} each, {' and '.join(when) or 'at the end'}"
        at_once = f"at most {self.most_checkpoints} at once = {size(self.disk_bytes)}"
        free = "" if self.free_bytes is None else f"; {size(self.free_bytes)} free"
        return f"{each}, {at_once}{free}{self._copies()}{self._destination()}"

    def _destination(self) -> str:
        """Where checkpoints are copied to, and the memory bill of that."""
        to = self.config.section(TrainingConfig).checkpoints_to
        if to is None:
            return ""
        from orchestrator.record.checkpoints.destination import MEMORY_BYTES

        most = size(min(MEMORY_BYTES, 2 * self.checkpoint_bytes))
        return f"; copied to {hide(to)} with at most {most} of memory in this process"

    def _copies(self) -> str:
        """The memory bill of saves that are written while training goes on."""
        if not self.config.section(TrainingConfig).save_async:
            return ""
        each = -(-self.checkpoint_bytes // self.config.sizes[-1])
        return f"; copied to {size(each)} of host memory per worker"

    def _early_end(self) -> str | None:
        stage = self.config.stage
        if not isinstance(stage, TrainingConfig) or stage.patience is None:
            return None
        by = f" of more than {stage.min_delta:g}" if stage.min_delta else ""
        evaluations = counted(stage.patience, "evaluation")
        return f"after {evaluations} without progress{by} in {stage.compared_by}"


def rough_plan(config: JobConfig) -> Plan:
    """The plan from the settings alone; looks at no data, no device and no disk.

    Raises:
        ValueError: the settings can't work together.
    """
    return Plan(config, STAGES[config.stage.name].driver.outline(config))


def make_plan(config: JobConfig, say: Callable[[str], None]) -> Plan:
    """Check all that can be checked before anything starts; makes the inputs (cached).

    The cheap refusals come first, before minutes of tokenizing.

    Raises:
        ValueError: the job can't work; the message says what to type instead.
    """
    plan = _checked(config, say)
    checkpoint = None if plan.start is None else plan.start.checkpoint
    ready = STAGES[config.stage.name].driver.prepare(plan.config, checkpoint, say)
    return replace(plan, outline=ready.outline, ready=ready, hardware=here(config))


def check(config: JobConfig, say: Callable[[str], None]) -> Plan:
    """All that `make_plan` checks, and a look at the data; makes nothing.

    Raises:
        ValueError: the job can't work; the message says what to type instead.
    """
    plan = _checked(config, say)
    checkpoint = None if plan.start is None else plan.start.checkpoint
    outline = STAGES[config.stage.name].driver.estimate(plan.config, checkpoint)
    return replace(plan, outline=outline, notes=tuple(outline.notes), hardware=here(config))


def _checked(config: JobConfig, say: Callable[[str], None]) -> Plan:
    """The plan as far as it can be had without the inputs."""
    rough = rough_plan(config)
    config, start, weights = _begin(config, rough, say)
    free = check_outputs(Path(config.outputs))
    rough.check_disk(free)
    _check_record(config)
    rough.check_destination()
    devices = check_fits(config.resources, config.sizes, config.stage.processes)
    rough.check_compiler()
    return Plan(config, rough.outline, None, free, devices, weights, start)


def foresee(
    config: JobConfig, say: Callable[[str], None], *, with_data: bool, hardware: Hardware
) -> Plan:
    """The plan of a job that is not started now, and maybe not here: what is missing is a note.

    Args:
        config: the job.
        say: gets a line for each stage of the work on data.
        with_data: make the data and count it; else a look at it tells about how much there is.
        hardware: what it is taken to run on.

    Raises:
        ValueError: the job can't work anywhere, or not with the data that is here.
    """
    rough, notes = rough_plan(config), []

    def noting(check: Callable[[], Found]) -> Found | None:
        try:
            return check()
        except ValueError as error:
            notes.append(str(error))
            return None

    config, start, weights = _begin(config, rough, say)
    free = noting(lambda: check_outputs(Path(config.outputs)))
    if free is not None:
        noting(lambda: rough.check_disk(free))
    noting(rough.check_destination)
    devices = noting(lambda: check_fits(config.resources, config.sizes, config.stage.processes))
    driver = STAGES[config.stage.name].driver

    def outline() -> Outline:
        _check_record(config)
        rough.check_compiler()
        checkpoint = None if start is None else start.checkpoint
        if with_data:
            return driver.prepare(config, checkpoint, say).outline
        return driver.estimate(config, checkpoint)

    # For a job that another machine will run, compiler and data may be there, too.
    found = noting(outline) or rough.outline if devices is None else outline()
    notes = [*notes, *found.notes]
    return Plan(config, found, None, free, devices, weights, start, tuple(notes), hardware)


def _begin(
    config: JobConfig, rough: Plan, say: Callable[[str], None]
) -> tuple[JobConfig, Start | None, Mapping[str, "Weights"]]:
    """The job by what it begins with: a checkpoint to resume, or weights of each role."""
    start = find_start(config)
    if start is not None:  # `outputs/latest` will soon mean the new run
        config = replace(config, resume=str(start.checkpoint.path.resolve()))
    elif config.resume is not None:
        say(f"resume={config.resume}: no run of this job is left unfinished; it begins at step 0")
        config = replace(config, resume=None, allow_changes=[])
    # A run that goes on has its own weights; those that it began with may be gone.
    weights = find_weights(rough.outline) if start is None else {}
    return pinned(config, weights), start, weights


def _check_record(config: JobConfig) -> None:
    if config.tracking.enabled:
        check_store(new_state(config.tracking, Path(config.outputs)))
