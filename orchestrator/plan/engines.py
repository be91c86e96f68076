"""Memory of a rollout engine, in closed form: what it holds, and what it needs to write."""

from dataclasses import dataclass

from models import cost
from models.cost import Pass
from orchestrator.config import JobConfig
from orchestrator.plan.timing import written_of
from orchestrator.plan.working import ordered_bytes
from orchestrator.stages.stage import RoleOutline

SLOTS, READ_TOKENS = 128, 1024  # as models/decoding/batching.py has them, which imports torch
PAGED_ROWS = 256  # as training/vllm_engine.py has it, which imports torch


@dataclass(frozen=True)
class EngineMemory:
    """Bytes of one engine, without its libraries."""

    weights: float
    ordered: float
    """The same in the order in which they are read while it writes."""
    cache: float
    """Keys and values of the answers that it writes at a time."""
    passing: float
    """What a pass needs, or the look at a tensor that has arrived; freed again."""
    answers: int
    """Written at a time."""

    @property
    def most(self) -> float:
        """All of it."""
        return self.weights + self.ordered + self.cache + self.passing


def engine_memory(role: RoleOutline, config: JobConfig, length: float) -> EngineMemory | None:
    """Of an engine that writes with a model; None: nobody has worked out what it keeps.

    Args:
        role: the model, as it is in training.
        config: of the job.
        length: tokens of a prompt with its answer.
    """
    model, work, T = role.config.model, role.work, round(length)
    engine, cpu = role.config.engine, config.resources.device == "cpu"
    half = engine.precision == "bf16" and engine.name == "deepspeed"  # as its weights are trained
    number, rows, V = 2 if half else 4, written_of(config, role), getattr(model, "vocab_size", None)
    weights = number * role.parameters
    if cost.cache_numbers(model, 1) is None or V is None:
        return None
    if work.block is not None:
        rows = min(rows, PAGED_ROWS)
        tokens = work.block * (1 + rows * -(-T // work.block))
        cache = number * tokens * (cost.cache_numbers(model, 1) or 0)
        head = number * V * int(getattr(model, "width", 0)) if cpu else 0  # packed beside itself
        return EngineMemory(weights, head, cache, 0.0, rows)
    rows = min(rows, SLOTS)
    cache = number * rows * (cost.cache_numbers(model, T - 1) or 0)
    ordered = ordered_bytes(weights, number, config.resources.device)
    prompt = max(T - work.written, 1)
    read = Pass(min(rows, max(READ_TOKENS // prompt, 1)), prompt, half)
    found = cost.activations(model, read)
    reading = number * read.tokens * (cost.cache_numbers(model, 1) or 0)
    reading += 0 if found is None else found.layer
    drawing = rows * V * (number + 4 + 4)  # logits, divided by the temperature, probabilities
    return EngineMemory(weights, ordered, cache, max(reading, drawing), rows)
