"""A layer of LSTM cells, with its gradients written out.

With the state h, c before step t, and sigma the logistic function, each cell computes

    i = sigma(V_i x + W_i h + b_i)    how much of what is new goes in
    f = sigma(V_f x + W_f h + b_f)    how much of the cell stays (Gers et al. 2000)
    o = sigma(V_o x + W_o h + b_o)    how much of the cell shows
    g =  tanh(V_g x + W_g h + b_g)    what is new
    c' = f c + i g                    h' = o tanh(c')

(Hochreiter and Schmidhuber 1997). Let d mean "the gradient of the loss by". From the last step to
the first, with dh' from the output of the step and from the step after it,

    do = dh' tanh(c')    dc' = dc' + dh' o (1 - tanh(c')^2)
    di = dc' g    df = dc' c    dg = dc' i    dc = dc' f

and before the nonlinearities di i (1 - i), df f (1 - f), do o (1 - o) and dg (1 - g^2), side by
side called z; dh = W^T z. The gradients of V, W and b are sums over all steps of z x^T, z h^T and
z, each one matrix product.

B rows, T time (steps), D numbers of an input, H cells.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.projection import matmul_dtype, without_autocast
from models.recurrent.stepping import Beginnings, State, step_product

sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
tanh_backward = torch.ops.aten.tanh_backward.grad_input


class LSTMLayer(nn.Module):
    """H cells over the inputs of all steps.

    The gates stand in the order i, f, o, g in the rows of the weights. Biases of f start at 1, of
    the others at 0: a new cell keeps what it has (Jozefowicz et al. 2015).
    """

    def __init__(self, inputs: int, units: int) -> None:
        """Draw the weights."""
        super().__init__()
        self.input_weight = nn.Parameter(torch.empty(4 * units, inputs))  # V
        self.state_weight = nn.Parameter(torch.empty(4 * units, units))  # W
        self.bias = nn.Parameter(torch.empty(4 * units))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        units = self.state_weight.shape[1]
        if not self.bias.is_meta:
            for weight in (self.input_weight, self.state_weight):
                nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
            nn.init.zeros_(self.bias)
            nn.init.ones_(self.bias[units : 2 * units])

    def forward(self, x: Tensor, state: State | None, keep: Tensor | None) -> tuple[Tensor, State]:
        """Return h of each step (B, T, H), and the state h, c (B, H) after the last.

        Args:
            x: (B, T, D).
            state: to go on from; no gradient goes into it. None: zeros.
            keep: bool (T, B), false where a row forgets the state before that step. None: nowhere.
        """
        if state is None:
            zeros = x.new_zeros(len(x), self.state_weight.shape[1])
            state = zeros, zeros
        weights = self.input_weight, self.bias, self.state_weight
        h, c = _Steps.apply(x.transpose(0, 1), *weights, *state, keep)  # type: ignore[no-untyped-call]
        return h.transpose(0, 1), (h[-1], c)


class _Steps(torch.autograd.Function):
    """All steps of a layer; tensors are (T, B, ...). Products are in autocast's type, c in fp32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, V: Tensor, b: Tensor, W: Tensor, h: Tensor, c: Tensor,
        keep: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return h' of all steps, and c' of the last."""
        dtype = matmul_dtype(x)
        ctx.dtypes = x.dtype, V.dtype
        with without_autocast(x):
            x, V, b, W = (each.to(dtype) for each in (x, V, b, W))
            wide = torch.promote_types(dtype, torch.float32)
            gates = functional.linear(x, V, b).to(wide)  # (T, B, 4H)
            (T, B, _), H = gates.shape, W.shape[1]
            hs, cs = x.new_empty(T + 1, B, H), gates.new_empty(T + 1, B, H)
            tanhs = torch.empty_like(cs[1:])
            hs[0], cs[0] = h, c
            product, beginnings = step_product(W, B, T), Beginnings(keep)
            steps = zip(gates, hs[:-1], cs[:-1], hs[1:], cs[1:], tanhs, strict=True)
            for t, (gate, h, c, h_new, c_new, tanh_c) in enumerate(steps):
                h, c = beginnings.forget(t, h, c)
                gate += product(h)
                gate[:, : 3 * H].sigmoid_()
                i, f, o, g = gate.unsafe_split(H, 1)
                g.tanh_()
                torch.mul(f, c, out=c_new).addcmul_(i, g)
                torch.tanh(c_new, out=tanh_c)
                torch.mul(o, tanh_c, out=h_new)
        ctx.save_for_backward(x, V, W, gates, hs, cs, tanhs, keep)
        last = cs[-1]
        ctx.mark_non_differentiable(last)
        return hs[1:], last

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, V, b and W.

        The gates are overwritten by z, so that autograd refuses a second backward pass.
        """
        x, V, W, gates, hs, cs, tanhs, keep = ctx.saved_tensors
        x_dtype, weight_dtype = ctx.dtypes
        (T, B, _), H, dtype = gates.shape, W.shape[1], x.dtype
        product, beginnings = step_product(W.T.contiguous(), B, T), Beginnings(keep)
        cs = beginnings.forgotten(cs[:-1])
        z = gates if gates.dtype == dtype else torch.empty_like(gates, dtype=dtype)
        dh = gates.new_zeros(B, H)
        dc, by_tanh, d_gate = dh.clone(), dh.clone(), gates.new_empty(B, 4 * H)
        di, df, do, dg = d_gate.split(H, 1)
        steps = zip(gates, cs, tanhs, gradients[0], z, strict=True)
        for t, (gate, c, tanh_c, d_out, z_t) in reversed(list(enumerate(steps))):
            i, f, o, g = gate.unsafe_split(H, 1)
            dh = dh + d_out
            torch.mul(dh, o, out=by_tanh)
            dc += tanh_backward(by_tanh, tanh_c, grad_input=by_tanh)
            torch.mul(dc, g, out=di)
            torch.mul(dc, c, out=df)
            torch.mul(dh, tanh_c, out=do)
            torch.mul(dc, i, out=dg)
            dc *= f
            three = gate[:, : 3 * H]
            sigmoid_backward(d_gate[:, : 3 * H], three, grad_input=three)
            tanh_backward(dg, g, grad_input=g)
            if z is not gates:
                z_t.copy_(gate)
            dh, dc = beginnings.forget(t, product(z_t), dc)
        z, before = z.flatten(0, 1), beginnings.forgotten(hs[:-1]).flatten(0, 1)
        dx = (z @ V).view_as(x).to(x_dtype)
        dV, db, dW = z.T @ x.flatten(0, 1), z.sum(0), z.T @ before
        return dx, dV.to(weight_dtype), db.to(weight_dtype), dW.to(weight_dtype), None, None, None
