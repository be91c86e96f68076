"""What a step needs of a worker's memory beside the state of its models, by role."""

from dataclasses import dataclass, replace

from models import cost
from models.configs import TokenModelConfig
from models.cost import Pass
from orchestrator.config import JobConfig, RoleConfig
from orchestrator.config.engine import BUCKET, PREFETCHED, REUSED
from orchestrator.plan.calibration import multiplies_bf16
from orchestrator.stages.stage import Outline, RoleOutline, Work

WRITTEN_OUT_TOKENS = 256  # as models/layers.py has it, which imports torch
MOST_SELECTED = 0.75  # as models/counted.py has it
MOST_SORTED_BYTES = 2**31  # as models/decoding/stepping.py has it


@dataclass(frozen=True)
class Working:
    """Bytes that one model needs in a step, and frees again."""

    activations: float = 0.0
    """Kept for the backward pass."""
    logits: float = 0.0
    """The most that the loss holds at a time."""
    layer: float = 0.0
    """Gradients of a layer's activations, or its activations where nothing is kept."""
    gathered: float = 0.0
    """Layers that ZeRO 3 has gathered, and copies of what is sent."""
    cache: float = 0.0
    """Keys and values of what it writes, and the weights as it reads them then."""
    evaluated: float = 0.0
    """Of an evaluation: the logits, from which each token gets its loss, and one layer."""

    @property
    def most(self) -> float:
        """Of writing, the end of the forward pass, the backward pass and an evaluation."""
        passing = self.activations + max(self.logits, self.layer)
        return self.gathered + max(passing, self.cache, self.evaluated)


def working_of(
    role: RoleOutline, config: JobConfig, length: float, answers: float
) -> Working | None:
    """Of one model on one worker; None: nobody has worked out what it keeps.

    Args:
        role: the model.
        config: of the job.
        length: tokens of a row.
        answers: rows that a worker writes at a time, if the role writes.
    """
    own, model, work = role.config, role.config.model, role.work
    number = 2 if own.engine.precision == "bf16" else 4
    gathered = number * _gathered(role, config.resources.device)
    each = micro_batch(own, config, max(length, work.text), work.rows)
    found = cost.activations(model, each)
    if found is None or role.by_hand is not None:
        return None
    if not work.passes:
        logits = _loss_bytes(model, each, config, work, learns=False)
        return Working(0.0, logits, found.layer, gathered)
    kept = found.total(checkpointing=own.engine.activation_checkpointing)
    logits = _loss_bytes(model, each, config, work, learns=True)
    if work.text:
        beside = micro_batch(own, config, work.text)
        logits = max(logits, _loss_bytes(model, beside, config, Work(), learns=True))
    cache = 0.0
    if work.written and not work.writers and own.engine.sharding_stage != 3:
        numbers = cost.cache_numbers(model, round(length)) or 0
        cache = number * answers * numbers
        cache += ordered_bytes(number * role.parameters, number, config.resources.device)
    evaluated = 0.0
    if work.loss == "summed":
        told = replace(work, loss="told")
        evaluated = found.layer + _loss_bytes(model, each, config, told, learns=True)
    return Working(kept, logits, found.layer, gathered, cache, evaluated)


def _gathered(role: RoleOutline, device: str) -> float:
    """Numbers of the layers that ZeRO 3 has gathered on a rank at once, and of what is under way.

    DeepSpeed (partitioned_param_coordinator.py) knows the order of layers once two passes have been
    alike. Then it gathers layers ahead, and keeps one until its next use where that is near: on the
    way back, the whole of a model that is not very large. A look between updates does not change
    that. gloo gathers and sums in a copy, of the layers ahead or of a bucket of gradients.
    """
    if role.config.engine.sharding_stage != 3:
        return 0.0
    whole, two = role.parameters, 2 * role.largest_layer
    if role.work.passes:
        sent, reach = BUCKET, REUSED // 2  # there and back
    else:
        sent, reach = PREFETCHED, two + PREFETCHED
    copied = min(whole, sent) if device == "cpu" else 0
    return min(whole, max(two, reach)) + copied


def ordered_bytes(weights: float, number: int, device: str) -> float:
    """Bytes of the copy of weights in reading order that a model has while it writes.

    Args:
        weights: bytes of the weights themselves.
        number: bytes of one of them.
        device: cpu, where there is such a copy, or cuda.
    """
    sorts = device == "cpu" and weights <= MOST_SORTED_BYTES
    return weights if sorts and (number == 4 or multiplies_bf16()) else 0.0


def row_length(outline: Outline) -> float | None:
    """Tokens of a row, or the most that it can have; None: neither is known."""
    return outline.longest if outline.length is None else outline.length


def micro_batches(config: JobConfig) -> int:
    """Of all samples that a worker has in a step."""
    batch = config.batch
    return batch.step // (batch.micro * config.workers)


def micro_batch(role: RoleConfig, config: JobConfig, length: float, rows: float = 1.0) -> Pass:
    """What goes through a model at a time; `rows` of each sample."""
    half, cpu = role.engine.precision == "bf16", config.resources.device == "cpu"
    T = round(length)
    written_out = cpu and half and multiplies_bf16() and T <= WRITTEN_OUT_TOKENS
    written_out = written_out and role.optim is not None
    return Pass(round(config.batch.micro * rows), T, half, written_out)


def _loss_bytes(model: object, each: Pass, config: JobConfig, work: Work, *, learns: bool) -> float:
    """Of the output layer; 0 for a model whose outputs are few."""
    if not isinstance(model, TokenModelConfig) or not model.writes or model.vocab_size is None:
        return 0.0
    device, V, loss, scored = config.resources.device, model.vocab_size, work.loss, work.scored
    tokens = each.tokens
    if device == "cpu" and scored is not None and scored < MOST_SELECTED * each.length:
        tokens = each.sequences * scored  # a GPU computes the logits of all
    width = getattr(model, "width", None)
    if loss == "summed" and width is not None:
        return cost.loss_bytes(tokens, width, V, each.number, device)
    if loss == "summed":  # of transformers, whose loss is that of each token
        loss = "losses"
    return cost.token_loss_bytes(tokens, V, each.number, device, loss if learns else "looks")
