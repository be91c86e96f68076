"""A layer of tanh units that see their own outputs of the step before, with its gradients.

    h' = tanh(V x + W h + b)

(Elman 1990). With d for "the gradient of the loss by", from the last step to the first,

    z = dh' (1 - h'^2)    dh = W^T z

where dh' comes from the output of the step and from the step after it. The gradients of V, W and b
are sums over all steps of z x^T, z h^T and z, each one matrix product.

B rows, T time (steps), D numbers of an input, H units.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.projection import matmul_dtype, weight_gradient, without_autocast
from models.recurrent.stepping import Beginnings, State, step_sum

tanh_backward = torch.ops.aten.tanh_backward.grad_input


class RNNLayer(nn.Module):
    """H units over the inputs of all steps."""

    def __init__(self, inputs: int, units: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(units, inputs))  # V
        self.state_weight = nn.Parameter(torch.empty(units, units))  # W
        self.bias = nn.Parameter(torch.empty(units))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        if not self.bias.is_meta:
            for weight in (self.input_weight, self.state_weight):
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, state: State | None, keep: Tensor | None) -> tuple[Tensor, State]:
        """Return h of each step (B, T, H), and the state, h (B, H), after the last.

        Args:
            x: (B, T, D).
            state: to go on from; no gradient goes into it. None: zeros.
            keep: bool (T, B), false where a row forgets the state before that step. None: nowhere.
        """
        (h,) = state or (x.new_zeros(len(x), len(self.bias)),)
        weights = self.input_weight, self.bias, self.state_weight
        hs: Tensor = _Steps.apply(x.transpose(0, 1), *weights, h, keep)  # type: ignore[no-untyped-call]
        return hs.transpose(0, 1), (hs[-1],)


class _Steps(torch.autograd.Function):
    """All steps of a layer; tensors are (T, B, ...). Products are in autocast's type."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, V: Tensor, b: Tensor, W: Tensor, h: Tensor, keep: Tensor | None
    ) -> Tensor:
        """Return h' of all steps."""
        dtype = matmul_dtype(x)
        ctx.dtypes = x.dtype, V.dtype
        with without_autocast(x):
            x, V, b, W = (each.to(dtype) for each in (x.contiguous(), V, b, W))
            sums = functional.linear(x, V, b)  # (T, B, H)
            T, B, H = sums.shape
            hs = x.new_empty(T + 1, B, H)
            hs[0] = h
            add_product, beginnings = step_sum(W, B, T), Beginnings(keep)
            for t, (own, h, h_new) in enumerate(zip(sums, hs[:-1], hs[1:], strict=True)):
                (h,) = beginnings.forget(t, h)
                torch.tanh(add_product(h, own, h_new), out=h_new)
        ctx.save_for_backward(x, V, W, hs, keep)
        return hs[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, V, b and W."""
        x, V, W, hs, keep = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        T, B, _ = x.shape
        add_product, beginnings = step_sum(W.T.contiguous(), B, T), Beginnings(keep)
        z = torch.empty_like(hs[1:])
        d_out = gradients[0].contiguous()
        dh = d_out[-1].clone()
        # The output of the step before is read where this step has done with its own.
        steps = zip(hs[1:], z, d_out.roll(1, 0), strict=True)
        for t, (h_new, z_t, d_before) in reversed(list(enumerate(steps))):
            tanh_backward(dh, h_new, grad_input=z_t)
            (known,) = beginnings.forget(t, z_t)
            add_product(known, d_before, dh)
        z, before = z.flatten(0, 1), beginnings.forgotten(hs[:-1]).flatten(0, 1)
        dx = (z @ V).view_as(x).to(x_dtype)
        dV, dW = weight_gradient(x.flatten(0, 1), z), weight_gradient(before, z)
        db = z.sum(0)
        return dx, dV.to(weight_dtype), db.to(weight_dtype), dW.to(weight_dtype), None, None
