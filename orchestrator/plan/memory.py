"""Bytes of a model on one worker, in closed form: while it starts, and between steps."""

from dataclasses import dataclass

from orchestrator.config.engine import BUCKET, SUB_GROUP
from orchestrator.stages.stage import RoleOutline


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker's share of the training state; activations and buffers not counted."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    start: float = 0.0
    """The most that is held at once while the model is made."""
    step: float = 0.0
    """The most that DeepSpeed copies of them while it takes a step, and frees again."""

    buffers: float = 0.0
    """What DeepSpeed keeps beside them from step to step."""

    @property
    def total(self) -> float:
        """Weights, gradients and optimizer."""
        return self.weights + self.gradients + self.optimizer

    def __add__(self, other: "Memory") -> "Memory":
        """Both in one process, the other made after this one, whose optimizer is not full yet."""
        return Memory(
            self.weights + other.weights,
            self.gradients + other.gradients,
            self.optimizer + other.optimizer,
            max(self.start, self.total + self.buffers + other.start),
            max(self.step, other.step),
            self.buffers + other.buffers,
        )


def memory_of(role: RoleOutline, workers: int) -> Memory:
    """State of one worker: Rajbhandari et al. 2020, figure 1.

    bf16 under DeepSpeed: 2 bytes of weight and 2 of gradient per parameter, and 4 for the fp32
    weight and for each number that the optimizer keeps (AdamW: 2). Without: 4, 4 and 4 for each
    number kept, and under ZeRO 1 to 3, where the optimizer holds a copy of its share of the
    weights, 4 more. A stage divides by the workers. What stays as it is beside an adapter has a
    weight alone.
    """
    engine, optim = role.config.engine, role.config.optim
    stage, half = engine.sharding_stage, engine.precision == "bf16"
    if optim is None:
        weight, cut = 2 if half else 4, workers if stage == 3 else 1
        held = weight * role.parameters / cut
        making = _making(role.largest_layer, weight, cut) if half or stage == 3 else 0.0
        if stage == 3 and role.config.model.weights is not None:
            making = 4 * role.largest_layer / cut  # only a shard at a time, as it is stored
        return Memory(weights=held, start=held + making)
    half = half and engine.name == "deepspeed"  # plain PyTorch trains fp32 weights under autocast
    weight = 2 if half else 4
    kept = 4 * optim.kept_at_most + (4 if half or stage else 0)
    average = 4 * role.trained / workers if role.work.averaged else 0.0  # a share on each
    return Memory(
        weight * role.parameters / (workers if stage >= 3 else 1) + average,
        weight * role.trained / (workers if stage >= 2 else 1),
        kept * role.trained / (workers if stage >= 1 else 1),
        _start(role, weight, workers),
        _step(role, weight, workers) if engine.name == "deepspeed" else 0.0,
        _buffers(role, weight, workers) if stage == 3 else 0.0,
    )


def _start(role: RoleOutline, weight: int, workers: int) -> float:
    """The most bytes while a trained model is made: of the phases one after another, the largest.

    Measured by tests/benchmarks/starting.py.
    """
    stage, layer = role.config.engine.sharding_stage, role.largest_layer
    held = weight * role.parameters / (workers if stage == 3 else 1)  # weights, trained or not
    trained = role.trained
    share = trained / workers
    if stage == 3:
        part = min(share, SUB_GROUP)
        return max(
            held + _making(layer, weight, workers),
            held + weight * share,  # DeepSpeed copies the shards into a block of its own
            held + 4 * share + 4 * part,  # fp32 weights, made in parts
            held + (4 + weight) * share + 2 * weight * layer,  # with gradients; a layer gathered
        )
    if stage:
        return max(
            held + weight * trained,  # DeepSpeed copies what is trained into one block
            held + (weight + 4 + 4) * share,  # fp32 weights, gradients
        )
    if weight == 2:
        return held + (4 + 4 + 4 * 2) * trained  # DeepSpeed takes a step with gradients of zero
    return held


def _step(role: RoleOutline, weight: int, workers: int) -> float:
    """Bytes that DeepSpeed copies in a step: gradients in flat pieces, new weights.

    Of ZeRO 3 gradients in fp32, a part at a time; those of an offloaded optimizer stay.

    Measured by tests/benchmarks/starting.py.
    """
    stage, whole = role.config.engine.sharding_stage, role.trained
    if stage == 3:
        share = min(whole / workers, SUB_GROUP)
        return 4 * share if weight == 2 and not role.config.engine.offload_optimizer else 0.0
    if not stage:  # gradients in one piece, to be summed over ranks; in bf16 then in fp32, too
        return (weight + (4 if weight == 2 else 0)) * whole
    bucket = weight * min(whole, BUCKET)
    # Reduced, gathered; cut into parts. Of one rank ZeRO 1 has nothing to reduce.
    buckets = (0 if workers == 1 else 2) if stage == 1 else (1 if workers == 1 else 3)
    return buckets * bucket + (weight + (4 if weight == 2 else 0)) * whole / workers


def _buffers(role: RoleOutline, weight: int, workers: int) -> float:
    """Bytes that DeepSpeed keeps of a model under ZeRO 3.

    The bucket in which gradients are reduced (stage3.py, where ipg_buckets get a buffer), as far as
    they fill it; and those of an offloaded optimizer.
    """
    return weight * min(role.trained, BUCKET) + offloaded_gradients(role, workers)


def offloaded_gradients(role: RoleOutline, workers: int) -> float:
    """Bytes of the fp32 gradients of a share, which DeepSpeed keeps beside an offloaded optimizer.

    In host memory (stage3.py, initialize_optimizer_states); others are freed after a step.
    """
    engine = role.config.engine
    kept = engine.sharding_stage == 3 and engine.offload_optimizer
    return 4 * role.trained / workers if kept else 0.0


def _making(layer: int, weight: int, cut: int) -> float:
    """Bytes that a layer takes beside all weights while it is made, if it is the last one.

    bf16 weights are a copy of those drawn in fp32; in fp32, a shard is a copy of a part.
    """
    return (4 + weight - weight / cut) * layer if weight == 2 else weight * layer
