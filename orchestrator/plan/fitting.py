"""What a job may change so that it fits or is faster, with numbers."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from data.messages import size
from orchestrator.config import JobConfig, TrainingConfig
from orchestrator.plan.forecast import USABLE, Forecast, forecast
from orchestrator.plan.memory import Memory, memory_of
from orchestrator.plan.planning import Plan
from orchestrator.plan.showing import duration

LIMIT = re.compile(r"(?:limit|total capacity of) ([\d.]+) ([MG])iB")
MOSTLY = 0.5  # of the limit; from there on the state is what does not fit
SHOWN = 4  # ways to make a job fit


@dataclass(frozen=True)
class Ways:
    """What was found, for the plan."""

    label: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """A job that differs from the one that was asked for in some settings."""

    settings: Mapping[str, Any]
    found: Forecast

    @property
    def offloads(self) -> int:
        """Kinds of state in host memory, which nobody has measured the time of."""
        return sum(name.startswith("engine.offload") for name in self.settings)

    def line(self, asked: Forecast) -> str:
        """What to type, what it takes, and what it costs in time."""
        words = " ".join(f"{name}={str(value).lower()}" for name, value in self.settings.items())
        assert self.found.peak is not None
        text = f"{words or 'as it is'}: {size(self.found.peak)}"
        if self.offloads:
            return text + ", and slower: the time of offloading is not predicted"
        if self.found.step_seconds is None:
            return text
        text += f", {self.found.step_seconds:.3g} s/step"
        if self.settings and asked.step_seconds is not None:
            text += f" (x {self.found.step_seconds / asked.step_seconds:.2f})"
        return text


def changes(plan: Plan) -> Ways:
    """The smallest changes that make a job fit, the cheapest in time first; none if it does."""
    asked = forecast(plan.config, plan.outline, plan.hardware)
    if asked.fits is not False:
        return Ways("")
    fitting = [way for way in _ways(plan, rounded=True) if way.found.fits]
    if not fitting:
        return Ways("to fit", (_nothing_fits(plan),))
    fewest = min(len(way.settings) for way in fitting)
    # Ways with one setting more come after, unless a part of them does already.
    small = [way for way in fitting if len(way.settings) <= fewest + 1]
    least = [
        way
        for way in small
        if not any(other.settings.items() < way.settings.items() for other in small)
    ]
    least.sort(key=lambda way: (way.offloads, *_slowness(plan, way), len(way.settings)))
    return Ways("to fit", tuple(way.line(asked) for way in least[:SHOWN]))


def fastest(plan: Plan) -> Ways:
    """The settings of the fastest job that fits and computes the same steps."""
    asked = forecast(plan.config, plan.outline, plan.hardware)
    if asked.peak is None or asked.limit is None or asked.step_seconds is None:
        unknown = "time" if asked.step_seconds is None else "memory"
        return Ways("fit", (f"can't be looked for: {unknown} {asked.why}",))
    fitting = [way for way in _ways(plan, rounded=False) if way.found.fits]
    if not fitting:
        return Ways("fit", (_nothing_fits(plan),))
    best = min(fitting, key=lambda way: (way.offloads, *_slowness(plan, way), len(way.settings)))
    took = plan.outline.steps * (best.found.step_seconds or 0.0)
    return Ways("fit", (f"{best.line(asked)}; {duration(took)}",))


def _nothing_fits(plan: Plan) -> str:
    limit = forecast(plan.config, plan.outline, plan.hardware).limit or 0.0
    return (
        "nothing does: no ZeRO stage, micro-batch, checkpointing, precision or offload takes at "
        f"most {size(USABLE * limit)} on {plan.config.workers} workers; try more workers, or a "
        "smaller model"
    )


def _slowness(plan: Plan, way: Way) -> tuple[float, float, float]:
    """What to prefer: less time, then less that is sent, then fewer and larger micro-batches."""
    seconds = math.inf if way.found.step_seconds is None else way.found.step_seconds
    gpu = plan.hardware.gpu_facts
    sending = 0.0 if gpu is None else way.found.sent / gpu.link
    micro = way.settings.get(MICRO, plan.config.batch.micro)
    return round(max(seconds, sending), 9), way.found.sent, -micro


MICRO, ZERO = "stage.micro_batch_size", "engine.zero_stage"
PRECISION = "engine.precision"
CHECKPOINTING = "engine.activation_checkpointing"
OFFLOADS = ("engine.offload_optimizer", "engine.offload_parameters")


def _ways(plan: Plan, *, rounded: bool) -> Iterator[Way]:
    """Every job of the same steps under other settings of how it is carried out; `rounded` if bf16
    will do, which computes them less exactly.
    """
    config, outline = plan.config, plan.outline
    if not outline.steps or not isinstance(config.stage, TrainingConfig):
        return
    engine, batch, workers = config.engine, config.batch, config.workers
    trained = [role.config for role in outline.roles.values() if role.config.optim is not None]
    able = bool(trained) and all(own.model.recomputes for own in trained)
    zero = range(4) if engine.name == "deepspeed" else [None]
    micros = [m for m in range(1, batch.step // workers + 1) if batch.step % (m * workers) == 0]
    now = {
        MICRO: batch.micro,
        ZERO: engine.zero_stage,
        CHECKPOINTING: engine.activation_checkpointing,
        PRECISION: engine.precision,
        **dict(zip(OFFLOADS, (engine.offload_optimizer, engine.offload_parameters), strict=True)),
    }
    again_or_not = {False, able, engine.activation_checkpointing}
    precisions = {engine.precision, "bf16"} if rounded else {engine.precision}
    for stage, micro, again, offloads, precision in product(
        zero, _spread(micros, batch.micro), again_or_not, range(3), sorted(precisions)
    ):
        wanted = {MICRO: micro, ZERO: stage, CHECKPOINTING: again, PRECISION: precision}
        wanted |= {name: number < offloads for number, name in enumerate(OFFLOADS)}
        settings = {name: value for name, value in wanted.items() if now[name] != value}
        try:
            changed, own = _changed(config, outline.roles, settings)
        except ValueError:  # what can't be together, such as offload without ZeRO
            continue
        yield Way(settings, forecast(changed, replace(outline, roles=own), plan.hardware))


def _spread(micros: list[int], now: int) -> list[int]:
    """A few of all sizes of micro-batches, each about twice the one before; `now` is one."""
    few, last = {now}, 0
    for micro in micros:
        if micro >= 2 * last:
            few.add(micro)
            last = micro
    return sorted(few)


def _changed(
    config: JobConfig, roles: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[JobConfig, Mapping[str, Any]]:
    """The job and its roles with other settings. Raises ValueError if they can't be."""
    own = {name.partition(".")[2]: value for name, value in settings.items() if name != MICRO}
    stage: Any = config.stage
    if MICRO in settings:
        stage = replace(stage, micro_batch_size=settings[MICRO])
    changed = replace(config, engine=replace(config.engine, **own), stage=stage)
    return changed, {
        name: replace(role, config=replace(role.config, engine=replace(role.config.engine, **own)))
        for name, role in roles.items()
    }


def what_would_fit(plan: Plan, said: str) -> str:
    """What used the memory of a worker, and which settings need less of it, the best first.

    Args:
        plan: of the job.
        said: what the kernel or the device said; it may tell a limit.
    """
    held = plan.memory
    told = (
        f"of a worker's memory the plan knows {size(held.total)}: weights {size(held.weights)}, "
        f"gradients {size(held.gradients)}, optimizer {size(held.optimizer)}; activations, buffers "
        "and libraries are the rest"
    )
    found = LIMIT.search(said)
    limit = float(found[1]) * {"M": 2**20, "G": 2**30}[found[2]] if found else None
    batch, state = _less_per_batch(plan), _less_state(plan)
    state_first = limit is not None and held.total > MOSTLY * limit
    ways = state + batch if state_first else batch + state
    return f"{told}; try {', or '.join([*ways, 'more memory, or fewer workers on a host'])}"


def _less_per_batch(plan: Plan) -> list[str]:
    """Settings that make activations smaller; the steps stay the same."""
    ways, config = [], plan.config
    if plan.outline.steps:
        batch = config.batch
        fitting = [m for m in range(1, batch.micro) if batch.step % (m * _workers(plan)) == 0]
        halves = [m for m in fitting if 2 * m <= batch.micro] or fitting
        if halves:
            ways.append(
                f"stage.micro_batch_size={halves[-1]} instead of {batch.micro} (activations x "
                f"{halves[-1] / batch.micro:.2g}, the same {batch.step} samples a step)"
            )
    trained = [role.config for role in plan.outline.roles.values() if role.config.optim is not None]
    able = bool(trained) and all(own.model.recomputes for own in trained)
    if able and not any(own.engine.activation_checkpointing for own in trained):
        ways.append("engine.activation_checkpointing=true (of each block its input alone is kept)")
    return ways


def _less_state(plan: Plan) -> list[str]:
    """Stages of ZeRO, from the next one on, that leave less on a worker."""
    engines = [role.config.engine for role in plan.outline.roles.values()]
    workers, ways = _workers(plan), []
    if workers == 1 or any(engine.name != "deepspeed" for engine in engines):
        return []
    least = plan.memory.total
    for stage in range(1 + max(engine.sharding_stage for engine in engines), 4):
        each = (
            replace(role, config=replace(role.config, engine=replace(engine, zero_stage=stage)))
            for role, engine in zip(plan.outline.roles.values(), engines, strict=True)
        )
        held = sum((memory_of(role, workers) for role in each), Memory()).total
        if held < least:
            least = held
            ways.append(f"engine.zero_stage={stage} ({size(held)} of state)")
    return ways


def _workers(plan: Plan) -> int:
    return plan.config.workers
