"""What a job will take: memory of a worker by role and part, time of a step.

The time of CPUs comes from what was measured of this machine (calibration.py), that of GPUs from
their data sheets and the share of it that is usual (MFU). What is not known is said.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from data.messages import counted
from orchestrator.config import EngineConfig, JobConfig
from orchestrator.plan.memory import Memory, memory_of, offloaded_gradients
from orchestrator.plan.timing import Hardware, Seconds, answers_of, layout_of, seconds_of
from orchestrator.plan.traffic import traffic
from orchestrator.plan.working import Working, micro_batches, row_length, working_of
from orchestrator.stages.stage import Outline, RoleOutline

HOLES = 1.2
"""On a CPU, what a process has taken for the tensors of a step, over what they need: they are of
unlike sizes, and leave holes. With it ranks of four models of 0.4 to 21 million parameters had 428
to 445 MB beside what is planned, and 428 to 471 MB with 1."""
USABLE = 0.95  # of a worker's memory; the rest goes to holes that an allocator can't fill


@dataclass(frozen=True)
class Part:
    """Memory of one model on a worker."""

    state: Memory
    working: Working | None
    """None: not known."""


@dataclass(frozen=True)
class Forecast:
    """Of one job on some hardware. What is None is not known."""

    memory: Memory
    """State of one worker."""
    parts: Mapping[str, Part]
    """The same by role, with what a step needs besides."""
    working: float | None
    """Bytes that a step needs beside the state: of its phases one after another, the most."""
    libraries: float | None
    """Of a worker's process on a CPU; 0 on a GPU, whose memory they are not in."""
    seconds: Seconds | None
    """Of a step."""
    why: str
    """Where the time comes from, or why it is not known."""
    sent: float
    """Bytes that a worker sends in a step."""
    limit: float | None = None
    """Bytes that a worker has."""
    mfu: float | None = None
    most: bool = False
    """Whether rows are taken to be as long as they can be, for how long they are is not known."""

    @property
    def step_seconds(self) -> float | None:
        """Of a step."""
        return None if self.seconds is None else self.seconds.total

    @property
    def needed(self) -> float | None:
        """The most bytes of one worker beside its libraries."""
        if self.working is None:
            return None
        held = self.memory.total + self.memory.buffers
        return max(held + self.working, self.memory.start)

    @property
    def peak(self) -> float | None:
        """The most bytes of one worker that are predicted."""
        if self.needed is None or self.libraries is None:
            return None
        return self.libraries + self.needed

    @property
    def fits(self) -> bool | None:
        """Whether a worker has so much memory. None: not known."""
        if self.limit is None or self.peak is None:
            return None
        return self.peak <= USABLE * self.limit


def kind_of(config: JobConfig, outline: Outline, on: Hardware) -> str:
    """What jobs have in common that learn from each other; of a GPU its name, and what waits."""
    device = config.resources.device
    if device == "cuda" and on.gpu is not None:
        device = on.gpu
        if seconds_of(config, outline, on).launched:
            device += ", which waits for its host"
    families = "+".join(role.config.model.family for role in outline.roles.values())
    engine, resources = config.engine, config.resources
    name = f"{engine.name} offloading" if _offloads(engine) else engine.name
    return (
        f"{config.stage.name} {families} {name} {engine.precision} "
        f"{layout_of(config)} {resources.launcher} {device}"
    )


def operations(outline: Outline, workers: int) -> float | None:
    """Of a worker in a step. None: not known, or there is no step."""
    if not outline.flops or not outline.steps:
        return None
    return outline.flops / outline.steps / workers


def pace_kind(kind: str, each: float) -> str:
    """What jobs have in common that share a pace: operations of a worker's step, to a power of ten.

    Small steps have a slower pace by far, for most of their time goes elsewhere.
    """
    return f"{kind}, steps of 1e{round(math.log10(each))} operations"


def _offloads(engine: EngineConfig) -> bool:
    return engine.offload_optimizer or engine.offload_parameters


def started(config: JobConfig) -> str:
    """What decides which libraries a rank has."""
    return f"{config.resources.launcher} {config.engine.name} {config.engine.precision}"


def forecast(config: JobConfig, outline: Outline, on: Hardware) -> Forecast:
    """What the job will take, from its settings alone."""
    own, workers, device = on.calibration, config.workers, config.resources.device
    kind = kind_of(config, outline, on)
    longest = outline.longest if outline.longest is not None else outline.length
    memory, parts = Memory(), {}
    for name, role in outline.roles.items():
        held = memory_of(role, workers)
        if device == "cuda":  # on a CPU worker host memory is where they are anyway
            held = _without_offloaded(held, role, workers)
        needs = None
        if longest is not None and outline.steps:
            needs = working_of(role, config, longest, answers_of(config))
        parts[name] = Part(held, needs)
        memory += held
    needed = [part.working for part in parts.values() if part.working is not None]
    working = None
    if parts and len(needed) == len(parts):
        working = max(own.most for own in needed) * (HOLES if device == "cpu" else 1.0)
        working = max(memory.step, working)
    libraries: float | None = 0.0
    if device == "cpu":
        bare = None if own is None else own.process_bytes
        libraries = on.lessons.process(started(config), bare)
    elif on.gpu_calibration is not None:
        libraries = on.gpu_calibration.workspace_bytes
    told = seconds_of(config, outline, on)
    seconds, why = told.seconds, told.why
    if seconds is not None and device == "cuda" and _offloads(config.engine):
        why += "; offloading comes on top, and runs alone tell how much it is"
    if seconds is not None and (learned := on.lessons.steps.get(kind)):
        seconds = seconds.times(learned.value)
        why += f", and by {counted(learned.runs, 'run')} of this kind (x {learned.value:.2f})"
    each = operations(outline, workers)
    if seconds is None and each is not None:
        learned = on.lessons.paces.get(pace_kind(kind, each))
        if learned is not None:
            seconds = Seconds(each / learned.value)
            pace = f"{learned.value / 1e9:.3g} GFLOP/s of a worker"
            why = f"by {counted(learned.runs, 'run')} of this kind and size: {pace}"
    mfu = None
    if seconds is not None and each is not None and (peak := _peak(config, on)):
        mfu = each / seconds.total / peak
    sent = traffic(outline.roles.values(), workers, micro_batches(config)) if outline.steps else 0.0
    return Forecast(
        memory,
        parts,
        working,
        libraries,
        seconds,
        why,
        sent,
        _limit(config, on),
        mfu,
        most=outline.length is None and row_length(outline) is not None,
    )


def _without_offloaded(held: Memory, role: RoleOutline, workers: int) -> Memory:
    """Without what is in host memory."""
    engine = role.config.engine
    return replace(
        held,
        buffers=held.buffers - offloaded_gradients(role, workers),
        optimizer=0.0 if engine.offload_optimizer else held.optimizer,
        weights=0.0 if engine.offload_parameters else held.weights,
    )


def _limit(config: JobConfig, on: Hardware) -> float | None:
    """Bytes that a worker has."""
    if config.resources.device == "cuda":
        return None if on.gpu_facts is None else on.gpu_facts.memory
    if config.resources.address is not None or on.host_bytes is None:
        return None
    return on.host_bytes / config.workers


def _peak(config: JobConfig, on: Hardware) -> float | None:
    """FLOP/s of a worker at best."""
    if config.resources.device == "cuda":
        return None if on.gpu_facts is None else on.gpu_facts.flops
    return None if on.calibration is None else on.calibration.best_flops(config.engine.precision)
