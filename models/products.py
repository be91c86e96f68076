"""Matrix products with weights that are kept in the order in which oneDNN reads them.

On a CPU oneDNN sorts bf16 weights anew at every product, which takes longer than the product of a
few rows itself.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Projection = Callable[[Tensor], Tensor]


def sorted_projection(
    weight: Tensor, bias: Tensor | None, rows: int, gelu: str | None = None
) -> Projection:
    """x (rows, inputs) -> x @ weight^T + bias, and its GELU where one is named; if it `sorts`.

    It is what torch.compile makes of a linear layer on a CPU, without its compiler. Autograd does
    not see through it, and the weights (outputs, inputs) are copied.
    """
    ops: Any = torch.ops.mkldnn
    mine = ops._reorder_linear_weight(weight.detach(), rows)
    then, how = ("gelu", gelu) if gelu else ("none", "")
    return lambda x: ops._linear_pointwise(x, mine, bias, then, [], how)


def sorted_sum(weight: Tensor, rows: int) -> Callable[[Tensor, Tensor], Tensor]:
    """x (rows, inputs), y (rows, outputs) -> x @ weight^T + y; as `sorted_projection`."""
    ops: Any = torch.ops.mkldnn
    mine = ops._reorder_linear_weight(weight.detach(), rows)
    return lambda x, y: ops._linear_pointwise.binary(x, y, mine, None, "add")


def sorts(weight: Tensor) -> bool:
    """Whether this build of torch has the operations, and this processor the instructions."""
    ops: Any = torch.ops.mkldnn
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if weight.device.type != "cpu" or not available or not hasattr(ops, "_linear_pointwise"):
        return False
    return weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and bool(ops._is_mkldnn_bf16_supported())
    )
