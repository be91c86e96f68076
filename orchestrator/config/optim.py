"""The optimizer and its learning-rate schedule."""

import math
from dataclasses import dataclass

from orchestrator.config.checks import check_at_least, check_choice

SCHEDULES = ("cosine", "wsd", "constant")


@dataclass
class OptimConfig:
    """AdamW (Loshchilov & Hutter 2019) and its learning-rate schedule."""

    name: str = "adamw"
    learning_rate: float = 3e-3
    """Peak learning rate."""
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Decoupled decay of matrices; vectors (norms, biases) are not decayed."""
    gradient_clip: float | None = 1.0
    """Largest global norm of the gradient. None: no clipping."""
    schedule: str = "cosine"
    """cosine, wsd (warm-up, stable, decay) or constant; all after a linear warm-up."""
    warmup_steps: int = 40
    decay_fraction: float = 0.2
    """wsd: the part of all steps over which the rate falls at the end."""
    final_fraction: float = 0.1
    """Learning rate of the last step, as a part of the peak."""

    def __post_init__(self) -> None:
        """Check ranges and choices."""
        check_choice("optim.schedule", self.schedule, SCHEDULES)
        check_at_least("optim.warmup_steps", self.warmup_steps, 0)
        check_at_least("optim.weight_decay", self.weight_decay, 0)
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"optim.{name}={getattr(self, name)} must lie in [0, 1)")
        for name in ("decay_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("learning_rate", "epsilon", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"optim.{name}={value} must be greater than 0 and finite")
