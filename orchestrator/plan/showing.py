"""How a plan shows what a job will take: memory, time, hours, money, energy."""

from collections.abc import Mapping

from data.messages import counted, size
from orchestrator.config import JobConfig
from orchestrator.plan.calibration import cpu_name
from orchestrator.plan.engines import engine_memory
from orchestrator.plan.forecast import USABLE, Forecast, Part, forecast
from orchestrator.plan.memory import Memory
from orchestrator.plan.timing import Hardware
from orchestrator.plan.working import Working, row_length
from orchestrator.stages.stage import Outline


def lines(config: JobConfig, outline: Outline, on: Hardware) -> dict[str, str]:
    """What the plan shows of it, by label."""
    own = forecast(config, outline, on)
    shown = {"memory": _memory(config, own)}
    shown |= _engines(config, outline)
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
    if held.buffers:
        copies = f"DeepSpeed's buckets {size(held.buffers)}; {copies}"
    text = (
        f"{size(held.total)} per worker: {_state(held)}{where}; "
        f"at most {size(held.start)} while it starts; {copies}"
    )
    if own.working is None:
        return text + "activations and buffers come on top"
    several = len(own.parts) > 1
    if several:
        text += f"a step needs {size(own.working)} besides"
    else:
        text += next(_working(part.working) for part in own.parts.values() if part.working)
    if own.most:
        text += " at most, if rows are as long as they may be"
    if own.libraries:
        text += f", libraries {size(own.libraries)}"
    if own.peak is None:
        text += "; libraries come on top"
    else:
        text += f": {size(own.peak)}{_limit(own)}"
    roles = (f"{name}: {_part(part)}" for name, part in own.parts.items() if several)
    return "\n".join([text, *roles])


def _engines(config: JobConfig, outline: Outline) -> Mapping[str, str]:
    """Memory of the engines beside the workers, if there are any."""
    length, shown = row_length(outline), {}
    for role in outline.roles.values():
        own = None
        if role.work.writers and length is not None:
            own = engine_memory(role, config, length)
        if own is not None:
            parts = {
                "weights": own.weights,
                "the same in reading order": own.ordered,
                f"cache of {counted(own.answers, 'answer')}": own.cache,
                "a pass": own.passing,
            }
            text = ", ".join(f"{name} {size(bytes_)}" for name, bytes_ in parts.items() if bytes_)
            each = f"{role.work.writers} x {size(own.most)}"
            shown["engines"] = f"{each}: {text}; libraries come on top"
    return shown


def _limit(own: Forecast) -> str:
    if own.limit is None:
        return ""
    fits = "fits into" if own.fits else "DOES NOT FIT into"
    return f", which {fits} {USABLE:.0%} of the {size(own.limit)} of a worker"


def _state(held: Memory) -> str:
    return (
        f"weights {size(held.weights)}, gradients {size(held.gradients)}, "
        f"optimizer {size(held.optimizer)}"
    )


def _part(part: Part) -> str:
    """One of several models."""
    trained = part.state.optimizer or part.state.gradients
    state = _state(part.state) if trained else f"weights {size(part.state.weights)}"
    return state if part.working is None else f"{state}; {_working(part.working)}"


def _working(own: Working) -> str:
    text = f"activations {size(own.activations)}, logits {size(own.logits)}"
    if buffers := own.layer + own.gathered:
        text += f", buffers {size(buffers)}"
    return f"{text}, cache {size(own.cache)}" if own.cache else text


def _time(config: JobConfig, outline: Outline, own: Forecast) -> str:
    if own.seconds is None or own.step_seconds is None:
        return own.why
    whole = own.step_seconds * outline.steps
    parts = ""
    if own.seconds.scoring or own.seconds.rollout:
        parts = ", ".join(
            f"{name} {seconds:.3g}"
            for name, seconds in (
                ("rollout", own.seconds.rollout),
                ("scoring", own.seconds.scoring),
                ("update", own.seconds.update),
            )
            if seconds
        )
        parts = f" ({parts})"
    rate = ""
    if outline.tokens_per_step is not None:
        rate = f", {outline.tokens_per_step / own.step_seconds:,.0f} tokens/s"
    mfu = "" if own.mfu is None else f", MFU {own.mfu:.2f}"
    most = "at most " if own.most or any(r.work.written for r in outline.roles.values()) else ""
    return (
        f"{most}{own.step_seconds:.3g} s/step{parts}{rate}{mfu}; {duration(whole)} for "
        f"{counted(outline.steps, 'step')}, without start, evaluation and saves; {own.why}"
    )


def _bill(config: JobConfig, lasts: float, on: Hardware) -> str:
    """Device hours, money and energy of the steps."""
    workers, resources = config.workers, config.resources
    if on.gpu is not None and on.gpu_facts is not None and resources.gpus_per_worker:
        spent, name = workers * lasts, on.gpu
        energy = f"at most {_energy(spent * on.gpu_facts.watts)} by the GPUs' own limits"
        text = f"{hours(spent)} GPU-hours of {name}"
    else:
        spent, name = workers * resources.cpus_per_worker * lasts, "cpu core"
        text = f"{hours(spent)} core-hours of {cpu_name()}"
        energy = "energy not known of CPUs"
    price = on.prices.get(name)
    money = (
        f"no price of {name!r} in the table of prices"
        if price is None
        else f"{spent * price:,.2f} USD at {price:g} an hour"
    )
    return f"{text}; {money}; {energy}"


def hours(count: float) -> str:
    """A number of hours for a reader."""
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
