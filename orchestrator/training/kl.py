"""How far a policy has moved from its reference: estimates for each token, and what it costs.

An estimate is made of one drawn token alone: d = log p(token) - log q(token), p the policy that
drew it and q the reference (Schulman 2020, "Approximating KL divergence"). All three have mean
KL(p, q) over tokens drawn from p, or nearly:

k1  d                  unbiased, may be negative
k2  d^2 / 2            biased, never negative; its gradient is, on average, that of KL(p, q)
k3  exp(-d) - 1 + d    unbiased, never negative; its gradient is that of KL(q, p)

So as a reward any of them does, and as a term of a loss k2 or k3: the gradient of k1 is 0 on
average, whatever the policy.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 20.0  # of |d| in an exponent: e^20 is as good as any larger number, and e^90 is infinite
ADAPTS_BY = 0.2  # Ziegler et al. 2019, equation 4: the most that an error counts
ESTIMATORS = ("k1", "k2", "k3")


def kl_estimate(logprobs: Tensor, reference: Tensor, how: str) -> Tensor:
    """Estimates of KL(policy, reference) from log-probabilities of drawn tokens; of their shape."""
    d = logprobs - reference
    if how == "k1":
        return d
    if how == "k2":
        return d.square() / 2
    return torch.exp((-d).clamp(-LARGEST, LARGEST)) - 1 + d


@dataclass
class KLController:
    """The coefficient of a KL penalty; fixed, or steered to a target.

    Ziegler et al. 2019, section 2.2: each step multiplies the coefficient by
    1 + clip(KL / target - 1, -0.2, 0.2) x answers / horizon.
    """

    coefficient: float
    """What a nat costs."""
    target: float | None = None
    """KL of a whole answer to steer to, in nats. None: the coefficient is fixed."""
    horizon: float = 10_000.0
    """Answers after which an error of a fifth has changed the coefficient by a fifth."""

    def update(self, kl: float, answers: int) -> None:
        """Take in the mean KL of the answers of a step, in nats each; the same on every rank."""
        if self.target is not None:
            error = min(max(kl / self.target - 1, -ADAPTS_BY), ADAPTS_BY)
            self.coefficient *= 1 + error * answers / self.horizon
