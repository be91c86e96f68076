"""How long a step takes: on CPUs by what was measured of them, on GPUs by their data sheets."""

from dataclasses import dataclass, field, replace
from functools import reduce

from models import cost
from orchestrator.config import JobConfig
from orchestrator.plan.calibration import Calibration
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


@dataclass(frozen=True)
class Hardware:
    """What the job is taken to run on, and what that costs."""

    gpu: str | None = None
    """Name in GPUS. None: CPUs, or a GPU that nobody has named."""
    gpu_facts: Gpu | None = None
    mfu: float | None = None
    """Of the GPU's peak. None: `MFU`."""
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


def seconds_of(config: JobConfig, outline: Outline, on: Hardware) -> tuple[Seconds | None, str]:
    """Of a step, and where they come from; None, and why they are not known."""
    if not outline.steps or not outline.roles:
        return None, "not known of this stage"
    length = row_length(outline)
    if length is None:
        return None, "not known: how long its examples are is not; --with-data may tell"
    roles = list(outline.roles.values())
    found, why = _in_turn(config, roles, length, on)
    ahead = any(role.work.ahead for role in roles)
    return (found.behind if found is not None and ahead else found), why


def _in_turn(
    config: JobConfig, roles: list[RoleOutline], length: float, on: Hardware
) -> tuple[Seconds | None, str]:
    """Of a step whose parts come one after another."""
    if config.resources.device == "cuda":
        return _on_gpu(config, roles, length, on)
    own = on.calibration
    if own is None:
        return None, "not known: orchestrate doctor --calibrate measures this machine once"
    by_hand = next((role.by_hand for role in roles if role.by_hand is not None), None)
    if by_hand is not None:
        return None, f"not known of {by_hand}"
    try:
        parts = [_on_cpu(config, role, length, own) for role in roles]
    except KeyError as error:
        return None, f"not known of {error.args[0]} on this machine"
    why, layout = "by what doctor --calibrate has measured of this machine", layout_of(config)
    if layout not in own.layouts:
        why += f", of {', '.join(own.layouts)} and not of {layout} ranks x threads"
    return reduce(Seconds.__add__, parts), why


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


def _on_gpu(
    config: JobConfig, roles: list[RoleOutline], length: float, on: Hardware
) -> tuple[Seconds | None, str]:
    gpu = on.gpu_facts
    if gpu is None:
        return None, "not known of this GPU: gpu=NAME takes one that is, such as gpu=H100"
    if config.engine.precision != "bf16":
        return None, "not known: MFU is of bf16 (engine.precision=bf16)"
    mfu = MFU if on.mfu is None else on.mfu
    parts = [_computed(config, role, length, gpu, mfu) for role in roles]
    found = reduce(Seconds.__add__, parts)
    why = f"at MFU {mfu:.2f} of {on.gpu}: {WHY_MFU if on.mfu is None else 'as you say'}"
    again = max(computed_again(role, length) for role in roles)
    if again > 1:
        why += f"; x {again:.2f}, as checkpointing computes blocks twice"
    if found.rollout:
        why += "; writing reads all weights and what is cached for each token"
    launched = reduce(Seconds.__add__, [_launched(config, role) for role in roles])
    if launched.update + launched.scoring > found.update + found.scoring:
        tensors = sum(len(cost.tensors(role.config.model)) for role in roles)
        return replace(launched, rollout=found.rollout), (
            f"an estimate, {1e3 * LAUNCH_SECONDS:g} ms for each of {tensors} tensors and pass: "
            f"{on.gpu} is done with so small a model before its next kernel is launched"
        )
    return found, why


def _launched(config: JobConfig, role: RoleOutline) -> Seconds:
    """What a GPU's host takes to launch all kernels of one model, at least."""
    each = LAUNCH_SECONDS * len(cost.tensors(role.config.model)) * micro_batches(config)
    return Seconds(role.work.trips * each, role.work.looks * each / 3)


def _computed(config: JobConfig, role: RoleOutline, length: float, gpu: Gpu, mfu: float) -> Seconds:
    """Of one model on one GPU: operations over what it does of them, bytes over its bandwidth."""
    work, model, rate = role.work, role.config.model, gpu.flops * mfu
    rows, flops = work.rows * answers_of(config), cost.flops(role.config.model, round(length))
    update = rows * work.passes * flops.training / rate * computed_again(role, length)
    if work.text:
        text = cost.flops(role.config.model, work.text).training
        update += rows * work.passes * text / rate * computed_again(role, work.text)
    look = rows * flops.forward / rate
    if not work.written:
        return Seconds(update, work.looks * look)
    if role.config.engine.sharding_stage == 3 and not work.writers:
        return Seconds(update, work.looks * look, work.written * look)
    # Pope et al. 2022 (arXiv:2211.05102), section 2.1: a token takes the time in which the weights
    # and the keys and values so far are read, or in which they are multiplied.
    number = 2 if role.config.engine.precision == "bf16" else 4
    cached = cost.cache_numbers(model, round(length - work.written / 2)) or 0
    written = written_of(config, role)
    reading = number * (role.parameters + written * cached) / gpu.bandwidth
    first = written * flops.forward / rate
    token = max(reading, first / length)
    return Seconds(update, work.looks * look, first + work.written * token)
