"""Bytes of the training state on one worker, in closed form."""

from dataclasses import dataclass

from orchestrator.stages.stage import RoleOutline


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker's share of the training state; activations and buffers not counted."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0

    @property
    def total(self) -> float:
        """All three."""
        return self.weights + self.gradients + self.optimizer

    def __add__(self, other: "Memory") -> "Memory":
        """Both in one process."""
        return Memory(
            self.weights + other.weights,
            self.gradients + other.gradients,
            self.optimizer + other.optimizer,
        )


def memory_of(role: RoleOutline, workers: int) -> Memory:
    """State of one worker: Rajbhandari et al. 2020, figure 1.

    bf16 under DeepSpeed: 2 bytes of weight and 2 of gradient per parameter, and 12 for the fp32
    weight and AdamW's two moments. Without: 4, 4 and 8, and under ZeRO 1 to 3, where the optimizer
    holds a copy of its share of the weights, 12. A stage divides by the workers.
    """
    engine = role.config.engine
    stage = engine.sharding_stage
    half = engine.name == "deepspeed" and engine.precision == "bf16"
    weights = gradients = 2 if half else 4
    optimizer = 12 if half or stage else 8
    if role.config.optim is None:
        gradients = optimizer = 0
    return Memory(
        weights * role.parameters / (workers if stage >= 3 else 1),
        gradients * role.parameters / (workers if stage >= 2 else 1),
        optimizer * role.parameters / (workers if stage >= 1 else 1),
    )
