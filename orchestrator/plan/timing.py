"""How long a step takes: by what was measured of CPUs and GPUs, else by a GPU's data sheet."""

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple, cast

from models import cost
from orchestrator.config import JobConfig
from orchestrator.plan.calibration import Calibration
from orchestrator.plan.gpu_calibration import GpuCalibration
from orchestrator.plan.lessons import Lessons
from orchestrator.plan.working import micro_batch, micro_batches, row_length
from orchestrator.stages.stage import Outline, RoleOutline
from orchestrator.training.gpus import Gpu

MFU = 0.29
WHY_MFU = "what this code's 124M model reached on one H200; large ones reach 0.38 to 0.43 (Llama 3)"
LAUNCH_SECONDS = 1e-4
"""Of a tensor and micro-batch on a GPU at least. The host of one H200 took 4.3 ms for the forward
pass of a token through 148 tensors (models/decoding/stepping.py), 29 us each; a backward pass takes
about twice that, and the optimizer its part. Runs teach a factor to it, as to all times."""

NEARLY = 0.7
"""Of what a GPU computes: where its host takes that long, or longer, a step is about both."""


@dataclass(frozen=True)
class Hardware:
    """What the job is taken to run on, and what that costs."""

    gpu: str | None = None
    """Name in GPUS. None: CPUs, or a GPU that nobody has named."""
    gpu_facts: Gpu | None = None
    mfu: float | None = None
    """Of the GPU's peak. None: what was measured of it, else `MFU`."""
    gpu_calibration: GpuCalibration | None = None
    calibration: Calibration | None = None
    lessons: Lessons = field(default_factory=Lessons)
    host_bytes: float | None = None
    """Memory of this machine, or of the container that this process is in."""
    prices: dict[str, float] = field(default_factory=dict)
    """Per hour of one GPU, or of one `cpu core`, by name."""


@dataclass(frozen=True)
class Seconds:
    """Of a step, by what its models do."""

    update: float = 0.0
    """Passes forward and backward, and the optimizer's part."""
    scoring: float = 0.0
    """Passes without a gradient."""
    rollout: float = 0.0
    """Text that is written, as long as the workers wait for it."""

    @property
    def total(self) -> float:
        """Of the step."""
        return self.update + self.scoring + self.rollout

    def __add__(self, other: "Seconds") -> "Seconds":
        """One after the other."""
        return Seconds(
            self.update + other.update,
            self.scoring + other.scoring,
            self.rollout + other.rollout,
        )

    def times(self, factor: float) -> "Seconds":
        """Each part longer by a factor."""
        return Seconds(factor * self.update, factor * self.scoring, factor * self.rollout)

    @property
    def behind(self) -> "Seconds":
        """The same where the next step's text is written meanwhile."""
        return replace(self, rollout=max(0.0, self.rollout - self.update - self.scoring))


@dataclass(frozen=True)
class Told:
    """How long a step takes, and how that is known."""

    seconds: Seconds | None
    """None: it is not known."""
    why: str
    launched: bool = False
    """Whether a GPU waits for its host, which launches what it computes, or nearly so."""


def seconds_of(config: JobConfig, outline: Outline, on: Hardware) -> Told:
    """Of a step, and where they come from; or why they are not known."""
    if not outline.steps or not outline.roles:
        return Told(None, "not known of this stage")
    length = row_length(outline)
    if length is None:
        return Told(None, "not known: how long its examples are is not; --with-data may tell")
    roles = list(outline.roles.values())
    found = _in_turn(config, roles, length, on)
    ahead = any(role.work.ahead for role in roles)
    if found.seconds is None or not ahead:
        return found
    return replace(found, seconds=found.seconds.behind)


def _in_turn(config: JobConfig, roles: list[RoleOutline], length: float, on: Hardware) -> Told:
    """Of a step whose parts come one after another."""
    if config.resources.device == "cuda":
        return _on_gpu(config, roles, length, on)
    own = on.calibration
    if own is None:
        return Told(None, "not known: orchestrate doctor --calibrate measures this machine once")
    by_hand = next((role.by_hand for role in roles if role.by_hand is not None), None)
    if by_hand is not None:
        return Told(None, f"not known of {by_hand}")
    try:
        parts = [_on_cpu(config, role, length, own) for role in roles]
    except KeyError as error:
        return Told(None, f"not known of {error.args[0]} on this machine")
    why, layout = "by what doctor --calibrate has measured of this machine", layout_of(config)
    if layout not in own.layouts:
        why += f", of {', '.join(own.layouts)} and not of {layout} ranks x threads"
    return Told(reduce(Seconds.__add__, parts), why)


def layout_of(config: JobConfig) -> str:
    """Ranks and threads of each, as calibrations name them."""
    return f"{config.workers}x{config.resources.cpus_per_worker}"


def answers_of(config: JobConfig) -> int:
    """Samples of a step that a worker has."""
    return config.batch.step // config.workers


def written_of(config: JobConfig, role: RoleOutline) -> int:
    """Samples of a step that are written by one process."""
    return -(-config.batch.step // (role.work.writers or config.workers))


def computed_again(role: RoleOutline, length: float) -> float:
    """How much more a pass takes because activations are computed again."""
    if not role.config.engine.activation_checkpointing or not role.work.passes:
        return 1.0
    flops = cost.flops(role.config.model, round(length))
    return 1 + flops.blocks / flops.training


def _on_cpu(config: JobConfig, role: RoleOutline, length: float, own: Calibration) -> Seconds:
    """Of one model. Raises KeyError if it can't be told."""
    model, work, layout = role.config.model, role.work, layout_of(config)
    precision = role.config.engine.precision
    each = micro_batch(role.config, config, length, work.rows)
    one = own.pass_seconds(model, each, precision, layout)
    looks = micro_batches(config) * one / 3  # a forward pass is a third of all operations
    update, rollout = 0.0, 0.0
    if work.passes:
        update = micro_batches(config) * work.passes * one * computed_again(role, length)
        if work.text:
            beside = micro_batch(role.config, config, work.text)
            text = own.pass_seconds(model, beside, precision, layout)
            update += micro_batches(config) * work.passes * text * computed_again(role, work.text)
        update += work.updates * own.update_seconds(model, precision)
    if work.written and not work.writers and role.config.engine.sharding_stage == 3:
        rollout = work.written * looks  # each token takes passes over the whole texts
    elif work.written:
        rows = written_of(config, role)
        rollout = looks * rows / answers_of(config)
        rollout += work.written * own.write_seconds(model, rows, length, precision, layout)
    return Seconds(update, work.looks * looks, rollout)


class _Parts(NamedTuple):
    """Seconds of what a GPU and its host do one after another, of one model in a step."""

    passes: float
    optimizer: float
    looks: float
    writing: float = 0.0

    @property
    def seconds(self) -> Seconds:
        """For the plan."""
        return Seconds(self.passes + self.optimizer, self.looks, self.writing)


def _on_gpu(config: JobConfig, roles: list[RoleOutline], length: float, on: Hardware) -> Told:
    if on.gpu_facts is None:
        return Told(None, "not known of this GPU: gpu=NAME takes one that is, such as gpu=H100")
    if config.engine.precision != "bf16":
        return Told(None, "not known: MFU is of bf16 (engine.precision=bf16)")
    known = on.gpu_calibration if on.mfu is None else None
    if known is not None and not all(known.covers(role.config.model) for role in roles):
        known = None
    if known is not None:
        source = f"what doctor --calibrate has measured of {on.gpu}"
        if known.shipped:
            source = f"measurements of {on.gpu} that came with this code"
        why = f"by {source}, on a host with {known.host}"
    else:
        mfu, told = (MFU, WHY_MFU) if on.mfu is None else (on.mfu, "as you say")
        why = f"at MFU {mfu:.2f} of {on.gpu}: {told}"
    try:
        works = [_computed(config, role, length, on, known) for role in roles]
    except KeyError as error:
        return Told(None, f"not known of {error.args[0]} on {on.gpu}")
    waits = [_launched(config, role, known) for role in roles]
    slower = [_Parts(*map(max, *each)) for each in zip(works, waits, strict=True)]
    work, wait = (_Parts(*map(sum, zip(*each, strict=True))) for each in (works, waits))
    waiting, working = wait.passes + wait.looks, work.passes + work.looks
    if waiting > working:
        tensors = sum(len(cost.tensors(role.config.model)) for role in roles)
        why = (
            f"{why}; {on.gpu} waits for its host, which launches kernels for {tensors} tensors"
            if known is not None
            else f"an estimate, {1e3 * LAUNCH_SECONDS:g} ms for each of {tensors} tensors and "
            f"pass: {on.gpu} is done with so small a model before its next kernel is launched"
        )
    elif (again := max(computed_again(role, length) for role in roles)) > 1:
        why += f"; x {again:.2f}, as checkpointing computes blocks twice"
    if work.writing > wait.writing:
        why += "; writing reads all weights and what is cached for each token"
    return Told(
        reduce(Seconds.__add__, [each.seconds for each in slower]), why, waiting > NEARLY * working
    )


def _launched(config: JobConfig, role: RoleOutline, known: GpuCalibration | None) -> _Parts:
    """What a GPU's host takes to launch all kernels of one model, at least."""
    work, model, engine = role.work, role.config.model, role.config.engine
    if known is None:
        each = LAUNCH_SECONDS * len(cost.tensors(model)) * micro_batches(config)
        return _Parts(work.trips * each, 0.0, work.looks * each / 3)
    name = engine.name if role.config.optim or engine.sharding_stage == 3 else "torch"
    each = known.launch_seconds(model, name) * micro_batches(config)
    return _Parts(
        work.trips * each,
        work.updates * known.host_update_seconds(model, name),
        work.looks * each / 3,
        work.written * known.token_seconds(model),
    )


def _computed(
    config: JobConfig, role: RoleOutline, length: float, on: Hardware, known: GpuCalibration | None
) -> _Parts:
    """What one GPU computes of one model, and reads."""
    gpu, work, model = cast(Gpu, on.gpu_facts), role.work, role.config.model
    flops, update = cost.flops(model, round(length)), 0.0
    if known is not None:
        update = work.updates * known.update * role.parameters

    def passing(tokens: float) -> float:
        """Forward and backward, of all rows of so many tokens."""
        if known is None:
            rate = gpu.flops * (MFU if on.mfu is None else on.mfu)
            return work.rows * answers_of(config) * cost.flops(model, round(tokens)).training / rate
        each = micro_batch(role.config, config, tokens, work.rows)
        return micro_batches(config) * known.pass_seconds(model, each)

    one = passing(length)
    look = one * flops.forward / flops.training
    passes = work.passes * one * computed_again(role, length)
    if work.text:
        passes += work.passes * passing(work.text) * computed_again(role, work.text)
    if not work.written:
        return _Parts(passes, update, work.looks * look)
    if role.config.engine.sharding_stage == 3 and not work.writers:
        return _Parts(passes, update, work.looks * look, work.written * look)
    # Pope et al. 2022 (arXiv:2211.05102), section 2.1: a token takes the time in which the weights
    # and the keys and values so far are read, or in which they are multiplied.
    number = 2 if role.config.engine.precision == "bf16" else 4
    cached = cost.cache_numbers(model, round(length - work.written / 2)) or 0
    written = written_of(config, role)
    reading = number * (role.parameters + written * cached) / gpu.bandwidth
    first = look / work.rows * written / answers_of(config)
    token = max(reading, first / length)
    return _Parts(passes, update, work.looks * look, first + work.written * token)
