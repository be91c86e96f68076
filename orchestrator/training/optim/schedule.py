"""The learning rate of each step."""

import math

from orchestrator.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (the first is 1) of `steps`.

    Linear warm-up over `warmup_steps`, then: `cosine` falls to `final_fraction` of the peak along
    half a cosine (Loshchilov & Hutter 2017, eq. 5); `wsd` stays at the peak and falls linearly
    over the last `decay_fraction` of all steps (Hu et al. 2024, MiniCPM, section 4.2); `constant`
    stays; `inverse_sqrt` is peak x sqrt(warmup_steps / step) (Vaswani et al. 2017, eq. 3).
    """
    peak = config.peak
    if step <= config.warmup_steps:
        return peak * step / config.warmup_steps
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse_sqrt":
        return peak * math.sqrt(config.warmup_steps / step)
    final = peak * config.final_fraction
    if config.schedule == "cosine":
        progress = (step - config.warmup_steps) / (steps - config.warmup_steps)
        return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2
    decay_steps = max(1.0, config.decay_fraction * steps)
    left = min(1.0, (steps - step) / decay_steps)
    return final + (peak - final) * left
