"""What a job will take: memory of a worker by part, time of a step, hours, money, energy.

The time of CPUs comes from what was measured of this machine (calibration.py), that of GPUs from
their data sheets and the share of it that is usual (MFU). What is not known is said.
"""

from dataclasses import dataclass, field, replace

from data.messages import counted, size
from models import cost
from models.configs import TokenModelConfig
from models.cost import Pass
from orchestrator.config import EngineConfig, JobConfig, RoleConfig
from orchestrator.plan.calibration import Calibration, cpu_name, multiplies_bf16
from orchestrator.plan.memory import Memory, memory_of
from orchestrator.plan.traffic import traffic
from orchestrator.stages.stage import Outline
from orchestrator.training.gpus import Gpu

USABLE = 0.95  # of a worker's memory; the rest goes to holes that an allocator can't fill
MFU = 0.29
WHY_MFU = "what this code's 124M model reached on one H200; large ones reach 0.38 to 0.43 (Llama 3)"
LAUNCH_SECONDS = 1e-4
"""Of a tensor and micro-batch on a GPU at least: some 15 kernels forward, backward and in the step,
each of which takes a host about 6 us to launch. Not measured."""
WRITTEN_OUT_TOKENS = 256  # as models/layers.py has it, which imports torch


@dataclass(frozen=True)
class Hardware:
    """What the job is taken to run on, and what that costs."""

    gpu: str | None = None
    """Name in GPUS. None: CPUs, or a GPU that nobody has named."""
    gpu_facts: Gpu | None = None
    mfu: float | None = None
    """Of the GPU's peak. None: `MFU`."""
    calibration: Calibration | None = None
    host_bytes: float | None = None
    """Memory of this machine."""
    prices: dict[str, float] = field(default_factory=dict)
    """Per hour of one GPU, or of one `cpu core`, by name."""


@dataclass(frozen=True)
class Forecast:
    """Of one job on some hardware. What is None is not known."""

    memory: Memory
    """State of one worker."""
    activations: float | None
    logits: float
    libraries: float | None
    """Of a worker's process on a CPU; 0 on a GPU, whose memory they are not in."""
    step_seconds: float | None
    why: str
    """Where the time comes from, or why it is not known."""
    sent: float
    """Bytes that a worker sends in a step."""
    buffers: float = 0.0
    """Gradients of a layer's activations, and layers that ZeRO 3 has gathered: the one at work and
    the next."""
    limit: float | None = None
    """Bytes that a worker has."""
    mfu: float | None = None

    @property
    def working(self) -> float | None:
        """Bytes that a step needs beside the state: of the phases one after another, the most."""
        if self.activations is None:
            return None
        return max(self.activations + self.logits + self.buffers, self.memory.step)

    @property
    def peak(self) -> float | None:
        """The most bytes of one worker that are predicted."""
        if self.working is None or self.libraries is None:
            return None
        return self.libraries + max(self.memory.total + self.working, self.memory.start)

    @property
    def fits(self) -> bool | None:
        """Whether a worker has so much memory. None: not known."""
        if self.limit is None or self.peak is None:
            return None
        return self.peak <= USABLE * self.limit


def kind_of(config: JobConfig, outline: Outline) -> str:
    """What jobs have in common that learn from each other."""
    families = "+".join(role.config.model.family for role in outline.roles.values())
    engine, resources = config.engine, config.resources
    return (
        f"{config.stage.name} {families} {engine.name} {engine.precision} "
        f"{layout_of(config)} {resources.launcher} {resources.device}"
    )


def started(config: JobConfig) -> str:
    """What decides which libraries a rank has."""
    return f"{config.resources.launcher} {config.engine.name} {config.engine.precision}"


def layout_of(config: JobConfig) -> str:
    """Ranks and threads of each, as calibrations name them."""
    return f"{config.workers}x{config.resources.cpus_per_worker}"


def micro_batch(role: RoleConfig, config: JobConfig, length: float) -> Pass:
    """What goes through a model at a time."""
    half, cpu = role.engine.precision == "bf16", config.resources.device == "cpu"
    T = round(length)
    written_out = cpu and half and multiplies_bf16() and T <= WRITTEN_OUT_TOKENS
    return Pass(config.batch.micro, T, half, written_out)


def forecast(config: JobConfig, outline: Outline, on: Hardware) -> Forecast:
    """What the job will take, from its settings alone."""
    own, workers, device = on.calibration, config.workers, config.resources.device
    kind = kind_of(config, outline)
    learned = None if own is None else own.learned.get(kind)
    memory, kept, logits, buffers = Memory(), 0.0, 0.0, 0.0
    known = outline.length is not None and outline.steps > 0
    for role in outline.roles.values():
        memory += _on_device(memory_of(role, workers), role.config.engine)
        if role.config.engine.sharding_stage == 3:
            buffers += 2 * role.largest_layer * (2 if role.config.engine.precision == "bf16" else 4)
        if outline.length is None or role.config.optim is None:
            continue
        each = micro_batch(role.config, config, outline.length)
        model = role.config.model
        found = cost.activations(model, each)
        known = known and found is not None and role.by_hand is None
        if found is not None:
            checkpointing = role.config.engine.activation_checkpointing
            kept += found.total(checkpointing=checkpointing)
            buffers += found.layer
        if isinstance(model, TokenModelConfig) and model.writes and model.vocab_size is not None:
            width = int(getattr(model, "width", 0))
            logits += cost.loss_bytes(each.tokens, width, model.vocab_size, each.number, device)
    libraries: float | None = 0.0
    if device == "cpu":
        libraries = None if own is None else own.process(started(config))
    seconds, why = _seconds(config, outline, on)
    if seconds is not None and learned is not None:
        seconds *= learned.step
        why += f", and by {counted(learned.runs, 'run')} of this kind (x {learned.step:.2f})"
    micro_steps = config.batch.accumulation_steps if outline.steps else 1
    mfu = None
    if seconds is not None and outline.flops and (peak := _peak(config, on)):
        mfu = outline.flops / outline.steps / workers / seconds / peak
    return Forecast(
        memory,
        kept if known else None,
        logits,
        libraries,
        seconds,
        why,
        traffic(outline.roles.values(), workers, micro_steps) if outline.steps else 0.0,
        buffers,
        _limit(config, on),
        mfu,
    )


def _on_device(held: Memory, engine: EngineConfig) -> Memory:
    """Without what is in host memory."""
    return replace(
        held,
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


def _seconds(config: JobConfig, outline: Outline, on: Hardware) -> tuple[float | None, str]:
    """Of a step, and where they come from."""
    if not outline.steps or not outline.roles:
        return None, "not known of this stage"
    if outline.length is None:
        return None, "not known: how long its examples are is not; --with-data may tell"
    if config.resources.device == "cuda":
        return _on_gpu(config, outline, on)
    own = on.calibration
    if own is None:
        return None, "not known: orchestrate doctor --calibrate measures this machine once"
    seconds, layout = 0.0, layout_of(config)
    try:
        for role in outline.roles.values():
            each = micro_batch(role.config, config, outline.length)
            precision, model = role.config.engine.precision, role.config.model
            one = own.pass_seconds(model, each, precision, layout)
            if role.config.engine.activation_checkpointing:
                flops = cost.flops(model, each.length)
                one *= 1 + flops.blocks / flops.training
            trained = role.config.optim is not None
            seconds += config.batch.accumulation_steps * one * (1.0 if trained else 1 / 3)
            seconds += own.update_seconds(model, precision) if trained else 0.0
            if role.by_hand is not None:
                return None, f"not known of {role.by_hand}"
    except KeyError as error:
        return None, f"not known of {error.args[0]} on this machine"
    why = "by what doctor --calibrate has measured of this machine"
    if layout not in own.layouts:
        why += f", of {', '.join(own.layouts)} and not of {layout} ranks x threads"
    return seconds, why


def _on_gpu(config: JobConfig, outline: Outline, on: Hardware) -> tuple[float | None, str]:
    if on.gpu_facts is None:
        return None, "not known of this GPU: gpu=NAME takes one that is, such as gpu=H100"
    if config.engine.precision != "bf16" or outline.flops is None:
        return None, "not known: MFU is of bf16 (engine.precision=bf16)"
    mfu = MFU if on.mfu is None else on.mfu
    again = 1.0
    for role in outline.roles.values():
        if role.config.engine.activation_checkpointing and role.config.optim is not None:
            flops = cost.flops(role.config.model, round(outline.length or 1))
            again = max(again, 1 + flops.blocks / flops.training)
    compute = outline.flops / outline.steps / config.workers / (on.gpu_facts.flops * mfu) * again
    why = f"at MFU {mfu:.2f} of {on.gpu}: {WHY_MFU if on.mfu is None else 'as you say'}"
    if again > 1:
        why += f"; x {again:.2f}, as checkpointing computes blocks twice"
    tensors = sum(len(cost.tensors(role.config.model)) for role in outline.roles.values())
    launching = LAUNCH_SECONDS * tensors * config.batch.accumulation_steps
    if launching > compute:
        return launching, (
            f"an estimate, {1e3 * LAUNCH_SECONDS:g} ms for each of {tensors} tensors and pass: "
            f"{on.gpu} is done with so small a model before its next kernel is launched"
        )
    return compute, why


def lines(config: JobConfig, outline: Outline, on: Hardware) -> dict[str, str]:
    """What the plan shows of it, by label."""
    own = forecast(config, outline, on)
    shown = {"memory": _memory(config, own)}
    if not outline.steps:
        return shown
    shown["time"] = _time(config, outline, own)
    if own.sent:
        shown["sent"] = f"{size(own.sent)} by each worker in a step"
    if own.step_seconds is not None:
        shown["cost"] = _bill(config, own.step_seconds * outline.steps / 3600, on)
    return shown


def _memory(config: JobConfig, own: Forecast) -> str:
    held = own.memory
    host = [
        name
        for name, offloaded in (
            ("optimizer", config.engine.offload_optimizer),
            ("weights", config.engine.offload_parameters),
        )
        if offloaded
    ]
    where = f", {' and '.join(host)} in host memory" if host else ""
    copies = f"copies of {size(held.step)} in a step; " if held.step else ""
    text = (
        f"{size(held.total)} per worker: weights {size(held.weights)}, gradients "
        f"{size(held.gradients)}, optimizer {size(held.optimizer)}{where}; "
        f"at most {size(held.start)} while it starts; {copies}"
    )
    if own.activations is None:
        return text + "activations and buffers come on top"
    text += f"activations {size(own.activations)}, logits {size(own.logits)}"
    if own.buffers:
        text += f", buffers {size(own.buffers)}"
    if own.libraries:
        text += f", libraries {size(own.libraries)}"
    if own.peak is None:
        return text + "; libraries come on top"
    text += f": {size(own.peak)}"
    if own.limit is None:
        return text
    fits = "fits into" if own.fits else "DOES NOT FIT into"
    return f"{text}, which {fits} {USABLE:.0%} of the {size(own.limit)} of a worker"


def _time(config: JobConfig, outline: Outline, own: Forecast) -> str:
    if own.step_seconds is None:
        return own.why
    whole = own.step_seconds * outline.steps
    rate = ""
    if outline.tokens_per_step is not None:
        rate = f", {outline.tokens_per_step / own.step_seconds:,.0f} tokens/s"
    mfu = "" if own.mfu is None else f", MFU {own.mfu:.2f}"
    return (
        f"{own.step_seconds:.3g} s/step{rate}{mfu}; {duration(whole)} for "
        f"{counted(outline.steps, 'step')}, without start, evaluation and saves; {own.why}"
    )


def _bill(config: JobConfig, hours: float, on: Hardware) -> str:
    """Device hours, money and energy of the steps."""
    workers, resources = config.workers, config.resources
    if on.gpu is not None and on.gpu_facts is not None and resources.gpus_per_worker:
        spent, name = workers * hours, on.gpu
        energy = f"at most {_energy(spent * on.gpu_facts.watts)} by the GPUs' own limits"
        text = f"{_hours(spent)} GPU-hours of {name}"
    else:
        spent, name = workers * resources.cpus_per_worker * hours, "cpu core"
        text = f"{_hours(spent)} core-hours of {cpu_name()}"
        energy = "energy not known of CPUs"
    price = on.prices.get(name)
    money = (
        f"no price of {name!r} in the table of prices"
        if price is None
        else f"{spent * price:,.2f} USD at {price:g} an hour"
    )
    return f"{text}; {money}; {energy}"


def _hours(count: float) -> str:
    return f"{count:,.0f}" if count >= 100 else f"{count:.3g}"


def _energy(watt_hours: float) -> str:
    for unit in ("Wh", "kWh", "MWh"):
        if watt_hours < 999.5:
            return f"{watt_hours:.3g} {unit}"
        watt_hours /= 1000
    return f"{watt_hours:.3g} GWh"


def duration(seconds: float) -> str:
    """A time for a reader: 1:28, 2:03:00 or 12.3 days."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds >= 2 * 86_400:
        return f"{seconds / 86_400:.3g} days"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
