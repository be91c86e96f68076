"""Optimizers, and the learning rate of each step."""

import math

import torch
from torch import nn

from orchestrator.config import OptimConfig

STATE_KEYS = "state_keys"
"""In a parameter group: what the optimizer keeps of each of its parameters, each as large as the
parameter itself."""


def build(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over two groups: matrices are decayed, vectors (norms and biases) are not.

    The learning rate is 0 until it is set, before each step; see `learning_rate`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if dimensions(p) >= 2],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if dimensions(p) < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [{**group, STATE_KEYS: ("exp_avg", "exp_avg_sq")} for group in groups if group["params"]],
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=True,
    )


def dimensions(parameter: nn.Parameter) -> int:
    """Of the whole parameter, also where ZeRO 3 has left a flat shard of it."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (the first is 1) of `steps`.

    Linear warm-up over `warmup_steps`, then: `cosine` falls to `final_fraction` of the peak along
    half a cosine (Loshchilov & Hutter 2017, eq. 5); `wsd` stays at the peak and falls linearly
    over the last `decay_fraction` of all steps (Hu et al. 2024, MiniCPM, section 4.2); `constant`
    stays.
    """
    peak, final = config.learning_rate, config.learning_rate * config.final_fraction
    if step <= config.warmup_steps:
        return peak * step / config.warmup_steps
    if config.schedule == "constant":
        return peak
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
        return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
    decay_steps = max(1.0, config.decay_fraction * steps)
    left = min(1.0, (steps - step) / decay_steps)
    return final + (peak - final) * left
