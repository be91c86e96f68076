"""The product of a projection, with the faster way to its gradient.

I inputs, O outputs, N tokens.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

MULTIPLIES_BF16 = torch.cpu._is_avx512_bf16_supported()
TRANSPOSED_FROM = 256
"""Width of the narrower side of a matrix from which on its bf16 gradient is worth a transposed copy
on a CPU, if the other side is at least twice as wide: it then takes 1 / 1.1 to 1 / 1.8 of the time;
at a width of 192 it took longer (measured with AMX)."""


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x (..., I) @ weight^T (I, O) + bias (O,), in the dtype that autocast asks for."""
    narrow, wide = sorted(weight.shape)
    dtype = matmul_dtype(x)
    pays = trains_on_cpu(weight) and on_bf16_cpu(x, dtype)
    if not (pays and TRANSPOSED_FROM <= narrow <= wide // 2):
        return functional.linear(x, weight, bias)
    own = (weight,) if bias is None else (weight, bias)
    y: Tensor = _Projected.apply(*(t.to(dtype) for t in (x, *own)))  # type: ignore[no-untyped-call]
    return y


class _Projected(torch.autograd.Function):
    """functional.linear with another way to the gradient of the weights."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, *bias: Tensor) -> Tensor:
        """Project x (..., I) by weight (O, I) and at most one bias (O,): (..., O)."""
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, *bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients by x, weight and bias."""
        x, weight = ctx.saved_tensors
        (by_y,) = gradients
        rows, by_rows = x.flatten(0, -2), by_y.flatten(0, -2)  # (N, I), (N, O)
        by_weight = weight_gradient(rows, by_rows)
        by_x = by_y @ weight if ctx.needs_input_grad[0] else None
        by_bias = (by_rows.sum(0),) if len(ctx.needs_input_grad) == 3 else ()
        return by_x, by_weight, *by_bias


def weight_gradient(x: Tensor, by_y: Tensor) -> Tensor:
    """The gradient (O, I) by the weights of a projection of x (N, I), given that by y (N, O).

    It is by_y^T @ x, a sum over tokens, and oneDNN is slow at a bf16 matrix that it has to read
    the other way round. Here the narrower of the two is turned round before.
    """
    if x.shape[1] < by_y.shape[1]:
        return (x.T.contiguous() @ by_y).T.contiguous()
    return by_y.T.contiguous() @ x


def trains_on_cpu(x: Tensor) -> bool:
    """Whether a gradient by x, written by hand, pays: torch.compile makes its own of formulas."""
    on_cpu = x.device.type == "cpu" and x.requires_grad and torch.is_grad_enabled()
    return on_cpu and not torch.compiler.is_compiling()


def on_bf16_cpu(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether x is computed with in bf16, by a CPU that has instructions for it."""
    return dtype == torch.bfloat16 and x.device.type == "cpu" and MULTIPLIES_BF16


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """A context in which what is computed with x keeps its dtype."""
    device = x.device.type
    return nullcontext() if x.is_meta else torch.autocast(device, enabled=False)


def matmul_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product of x is computed in: autocast's dtype, else its own."""
    device = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(device):  # which knows no such device
        return x.dtype
    return torch.get_autocast_dtype(device)
