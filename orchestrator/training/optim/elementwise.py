"""Optimizers that treat every number alone, so that ZeRO may cut them anywhere."""

from collections.abc import Callable
from typing import Any

import torch

Groups = list[dict[str, Any]]


class Adagrad(torch.optim.Optimizer):
    """Steps shrink with the sum of all squared gradients (Duchi et al. 2011)."""

    def __init__(self, groups: Groups, *, eps: float, lr: float = 0.0) -> None:
        """Weight decay, per group, is added times the weight to the gradient."""
        super().__init__(groups, {"lr": lr, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """sum += g^2, w -= lr g / (sqrt(sum) + eps)."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                gradient = weight.grad.add(weight, alpha=group["weight_decay"])
                state = self.state[weight]
                if "sum" not in state:
                    state["sum"] = torch.zeros_like(weight)
                state["sum"].addcmul_(gradient, gradient)
                scale = state["sum"].sqrt().add_(group["eps"])
                weight.addcdiv_(gradient, scale, value=-group["lr"])


class Lion(torch.optim.Optimizer):
    """Steps of one size, in the direction of the sign of a mean gradient (Chen et al. 2023)."""

    def __init__(self, groups: Groups, *, betas: tuple[float, float], lr: float = 0.0) -> None:
        """Weight decay, per group, shrinks weights by it times the learning rate."""
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """w -= lr (sign(beta1 m + (1 - beta1) g) + decay w), then m = beta2 m + (1 - beta2) g."""
        for group in self.param_groups:
            rate, (beta1, beta2) = group["lr"], group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "exp_avg" not in state:
                    state["exp_avg"] = torch.zeros_like(weight)
                mean = state["exp_avg"]
                direction = torch.lerp(weight.grad, mean, beta1).sign_()
                weight.mul_(1 - rate * group["weight_decay"]).add_(direction, alpha=-rate)
                mean.lerp_(weight.grad, 1 - beta2)
