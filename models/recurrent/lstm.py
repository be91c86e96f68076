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

from models.projection import matmul_dtype, weight_gradient, without_autocast
from models.recurrent.stepping import FEW_STEPS, Beginnings, State, fuses, step_sum

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
        if keep is None and x.shape[1] >= FEW_STEPS and fuses(x):
            return self._fused(x, state)
        weights = self.input_weight, self.bias, self.state_weight
        h, c = _Steps.apply(x.transpose(0, 1), *weights, *state, keep)  # type: ignore[no-untyped-call]
        return h.transpose(0, 1), (h[-1], c)

    def _fused(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The same by oneDNN, whose gates stand in the order i, f, g, o."""
        H = self.state_weight.shape[1]
        V, W, b = (
            torch.cat([own[: 2 * H], own[3 * H :], own[2 * H : 3 * H]])
            for own in (self.input_weight, self.state_weight, self.bias)
        )
        before = [part.detach()[None] for part in state]
        own = [V, W, b, torch.zeros_like(b)]
        out, h, c = torch.lstm(x, before, own, True, 1, 0.0, self.training, False, True)
        return out, (h[0].detach(), c[0].detach())


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
            x, V, b, W = (each.to(dtype) for each in (x.contiguous(), V, b, W))
            wide = torch.promote_types(dtype, torch.float32)
            inputs = functional.linear(x, V, b)
            (T, B, _), H = inputs.shape, W.shape[1]
            gates = inputs if dtype == wide else inputs.new_empty(inputs.shape, dtype=wide)
            hs, cs = x.new_empty(T + 1, B, H), gates.new_empty(T + 1, B, H)
            tanhs = torch.empty_like(cs[1:])
            hs[0], cs[0] = h, c
            add_product, beginnings = step_sum(W, B, T), Beginnings(keep)
            steps = zip(
                *(inputs, gates, gates[..., : 3 * H], *gates.chunk(4, -1)),
                *(hs[:-1], cs[:-1], hs[1:], cs[1:], tanhs),
                strict=True,
            )
            for t, (x_t, gate, ifo, i, f, o, g, h, c, h_new, c_new, tanh_c) in enumerate(steps):
                h, c = beginnings.forget(t, h, c)
                add_product(h, x_t, gate)
                ifo.sigmoid_()
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
        add_product, beginnings = step_sum(W.T.contiguous(), B, T), Beginnings(keep)
        cs = beginnings.forgotten(cs[:-1])
        z = gates if gates.dtype == dtype else torch.empty_like(gates, dtype=dtype)
        d_out = gradients[0].to(dtype).contiguous()
        dh = d_out[-1].to(gates.dtype, copy=True)
        dc, by_tanh, d_gate = torch.zeros_like(dh), torch.empty_like(dh), gates.new_empty(B, 4 * H)
        d_ifo, (di, df, do, dg) = d_gate[:, : 3 * H], d_gate.split(H, 1)
        # The output of the step before is read where this step has done with its own.
        steps = zip(
            *(gates, gates[..., : 3 * H], *gates.split(H, -1)),
            *(cs, tanhs, z, d_out.roll(1, 0)),
            strict=True,
        )
        for t, (gate, ifo, i, f, o, g, c, tanh_c, z_t, d_before) in reversed(
            list(enumerate(steps))
        ):
            torch.mul(dh, o, out=by_tanh)
            dc += tanh_backward(by_tanh, tanh_c, grad_input=by_tanh)
            torch.mul(dc, g, out=di)
            torch.mul(dc, c, out=df)
            torch.mul(dh, tanh_c, out=do)
            torch.mul(dc, i, out=dg)
            dc *= f
            sigmoid_backward(d_ifo, ifo, grad_input=ifo)
            tanh_backward(dg, g, grad_input=g)
            if z is not gates:
                z_t.copy_(gate)
            z_t, dc = beginnings.forget(t, z_t, dc)
            add_product(z_t, d_before, dh)
        z, before = z.flatten(0, 1), beginnings.forgotten(hs[:-1]).flatten(0, 1)
        dx = (z @ V).view_as(x).to(x_dtype)
        dV, dW = weight_gradient(x.flatten(0, 1), z), weight_gradient(before, z)
        db = z.sum(0)
        return dx, dV.to(weight_dtype), db.to(weight_dtype), dW.to(weight_dtype), None, None, None
