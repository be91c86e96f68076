"""What a job that ran out of memory may change, with numbers."""

import re
from dataclasses import replace

from data.messages import size
from orchestrator.plan.memory import Memory, memory_of
from orchestrator.plan.planning import Plan

LIMIT = re.compile(r"(?:limit|total capacity of) ([\d.]+) ([MG])iB")
MOSTLY = 0.5  # of the limit; from there on the state is what does not fit


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
