"""What recurrent layers of every kind do from step to step.

T time (steps), B rows, H units of a layer.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.products import sorted_sum, sorts
from models.projection import matmul_dtype

State = tuple[Tensor, ...]
"""What a layer hands from step to step, each (B, H)."""

Sum = Callable[[Tensor, Tensor, Tensor], Tensor]

FEW_STEPS = 16  # sorting weights takes as long as it saves in about 5


def step_sum(weight: Tensor, rows: int, steps: int) -> Sum:
    """x (rows, inputs), y (rows, outputs), out -> x @ weight^T + y into out.

    It is made fast for a call in each of so many steps: fp32 weights are transposed, which takes a
    quarter off a product of few rows; bf16 ones are sorted, which takes half off (measured with
    AVX-512 and AMX). x and y are of the type of the weights, and `out` may be of a wider one.
    """
    if steps >= FEW_STEPS and weight.dtype == torch.bfloat16 and sorts(weight):
        summed = sorted_sum(weight, rows)
        return lambda x, y, out: out.copy_(summed(x, y))
    columns = weight.T.contiguous() if steps >= FEW_STEPS else weight.T

    def add(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
        if out.dtype != weight.dtype:
            return out.copy_(torch.addmm(y, x, columns))
        return torch.addmm(y, x, columns, out=out)

    return add


def fuses(x: Tensor) -> bool:
    """Whether oneDNN does all steps of an LSTM in less time than steps one by one: in fp32.

    In bf16 its backward pass takes longer (1.5 times, measured with AMX).
    """
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and x.device.type == "cpu" and matmul_dtype(x) == x.dtype == torch.float32


class Beginnings:
    """Steps at which rows begin a text of their own, and forget what was before."""

    def __init__(self, keep: Tensor | None) -> None:
        """`keep`, bool (T, B), is false where a row begins. None: nowhere."""
        self.keep = keep
        self.steps = set() if keep is None else set((~keep).any(1).nonzero()[:, 0].tolist())

    def forget(self, t: int, *states: Tensor) -> Sequence[Tensor]:
        """The states (B, H) that step t starts from, or gradients of them."""
        if t not in self.steps:
            return states
        assert self.keep is not None
        kept = self.keep[t, :, None]
        return [state * kept for state in states]

    def forgotten(self, states: Tensor) -> Tensor:
        """The states (T, B, H) before all steps, as these started from them."""
        return states if self.keep is None else states * self.keep[..., None]
