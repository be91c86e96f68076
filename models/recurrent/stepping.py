"""What recurrent layers of every kind do from step to step.

T time (steps), B rows, H units of a layer.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.products import Projection, sorted_projection, sorts

State = tuple[Tensor, ...]
"""What a layer hands from step to step, each (B, H)."""

FEW_STEPS = 16  # sorting weights takes as long as it saves in about 5


def step_product(weight: Tensor, rows: int, steps: int) -> Projection:
    """x (rows, inputs) -> x @ weight^T, made fast for a call in each of so many steps.

    fp32 weights are transposed, which takes a quarter off a product of few rows; bf16 ones are
    sorted, which takes half off (measured with AVX-512 and AMX).
    """
    if steps < FEW_STEPS:
        return lambda x: x @ weight.T
    if weight.dtype == torch.bfloat16 and sorts(weight):
        return sorted_projection(weight, None, rows)
    columns = weight.T.contiguous()
    return lambda x: x @ columns


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
