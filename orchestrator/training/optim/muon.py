"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal before the step."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

STEPS = 5  # of the iteration
QUINTIC = (3.4445, -4.7750, 2.0315)  # steepest at 0 among those that end within 0.7 to 1.2
RMS = 0.2  # of an update of AdamW, measured (Liu et al. 2025, section 2.2)


class Muon(torch.optim.Optimizer):
    """Muon for the groups that say `orthogonal`, AdamW for the others.

    Updates are scaled to the size of AdamW's (Liu et al. 2025), so that both take the same
    learning rate and weight decay.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        momentum: float,
        nesterov: bool,
        betas: tuple[float, float],
        eps: float,
        lr: float = 0.0,
    ) -> None:
        """`betas` and `eps` are AdamW's."""
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "betas": betas}
        super().__init__(groups, {**defaults, "eps": eps, "weight_decay": 0.0, "orthogonal": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient."""
        for group in self.param_groups:
            update: Any = self._muon if group["orthogonal"] else self._adamw
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    weight.sub_(update(weight, weight.grad, group), alpha=group["lr"])

    def _muon(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        mean = self._kept(weight, "momentum_buffer").lerp_(gradient, 1 - group["momentum"])
        ahead = torch.lerp(gradient, mean, group["momentum"]) if group["nesterov"] else mean
        matrix = ahead.flatten(1)  # a convolution: (outputs, inputs x window)
        size = RMS * float(max(matrix.shape)) ** 0.5
        return orthogonal(matrix).to(weight.dtype).mul_(size).view_as(weight)

    def _adamw(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        beta1, beta2 = group["betas"]
        step = float(self.state[weight].setdefault("step", torch.zeros(())).add_(1))
        mean = self._kept(weight, "exp_avg").lerp_(gradient, 1 - beta1)
        square = self._kept(weight, "exp_avg_sq")
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = (square / (1 - beta2**step)).sqrt_().add_(group["eps"])
        return mean.div(1 - beta1**step).div_(scale)

    def _kept(self, weight: Tensor, key: str) -> Tensor:
        state: dict[str, Tensor] = self.state[weight]
        if key not in state:
            state[key] = torch.zeros_like(weight)
        return state[key]


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T: singular values end between 0.7 and 1.2. In bf16.

    Newton-Schulz iteration: X <- a X + b (X X^T) X + c (X X^T)^2 X moves each singular value by
    an odd polynomial, from at most 1 at the start.
    """
    a, b, c = QUINTIC
    x: Tensor = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        # addmm rounds to bf16 once, at its end.
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
