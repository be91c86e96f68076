"""Where a token stands, as numbers: sinusoids that are added, and turns of queries and keys.

B batch, T time (tokens), K head width.
"""

from typing import Any

import torch
from torch import Tensor

from models.configs import GPTConfig
from models.projection import trains_on_cpu

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines of the angles by which `rotate` turns."""


def sinusoidal_positions(positions: Tensor, width: int) -> Tensor:
    """Return Vaswani et al. 2017 section 3.5 for positions (..., T): fp32 (..., T, width).

    Even columns are sines and odd columns are cosines, of wavelengths 2 pi to 20000 pi tokens.
    """
    turns = _frequencies(width, 10000.0, positions.device)  # (D/2,)
    angles = positions.float()[..., None] * turns  # (..., T, D/2)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)  # (..., T, D)


def rotary_table(positions: Tensor, config: GPTConfig) -> Rotary:
    """Return cosines and sines for `rotate`, each fp32 (..., T, 1, K), of positions (..., T).

    They are computed anew in each forward pass, once for all layers: a buffer would be rounded by
    `model.bfloat16()`, left empty by the meta device and cast by ZeRO, and saves next to nothing.
    """
    turns = _scaled(_frequencies(config.head_width, config.rotary_base, positions.device), config)
    angles = (positions.float()[..., None] * turns)[..., None, :]  # (..., T, 1, K/2)
    cos, sin = angles.cos(), angles.sin()
    # `rotate` adds x2 * sin where x1 should lose it: the first half of the sines carries the sign.
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def _frequencies(width: int, base: float, device: torch.device) -> Tensor:
    """Return base^(-2i/width) for i < width/2, in radians per token: fp32 (width/2,)."""
    even = torch.arange(0, width, 2, dtype=torch.float32, device=device)
    return base ** (-even / width)


def _scaled(turns: Tensor, config: GPTConfig) -> Tensor:
    """Make frequencies (K/2,) smaller, as far as `rotary_scaling` says, for longer sequences.

    llama3 (Dubey et al. 2024, as Hugging Face has it): with n turns within the positions trained
    before, a frequency of n <= 1 is divided by the factor, one of n >= 4 stays, and between the
    two it is a mixture.
    """
    if config.rotary_scaling == "none":
        return turns
    if config.rotary_scaling == "linear":
        return turns / config.rotary_factor
    assert config.rotary_trained_positions is not None  # the config checks it
    n = turns * config.rotary_trained_positions / (2 * torch.pi)
    kept = ((n - 1) / (4 - 1)).clamp(0, 1)
    return turns * (kept + (1 - kept) / config.rotary_factor)


def rotate(x: Tensor, rotary: Rotary) -> Tensor:
    """Turn x (B, T, heads, K) by its positions (Su et al. 2021), in the dtype of x.

    Number i of a head is paired with number i + K/2, as Llama on Hugging Face has it, not with
    its neighbour as in the paper: x1' = x1 cos - x2 sin, x2' = x2 cos + x1 sin. Rolling by half
    a head puts every number in its partner's place, in fewer operations than two halves.
    """
    cos, sin = rotary
    if trains_on_cpu(x):
        turned: Tensor = _Rotated.apply(x, cos, sin)  # type: ignore[no-untyped-call]
        return turned
    partner = x.roll(x.shape[-1] // 2, -1)
    return torch.addcmul(x * cos, partner, sin).type_as(x)


class _Rotated(torch.autograd.Function):
    """`rotate` in fewer passes over memory, 0.65 of its time; its gradient is turned back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turn x."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Turn the gradient by minus the angles."""
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    wide = x.float()
    turned = wide * cos
    turned[..., :half].addcmul_(wide[..., half:], sin[..., :half])
    turned[..., half:].addcmul_(wide[..., :half], sin[..., half:])
    return turned.to(x.dtype)
