"""Losses of preference pairs as pure functions of log-probabilities.

B pairs. A log-probability is that of a whole answer, its end token too, given what it answers, in
nats. `margin` (B,) is how much more the policy prefers the chosen answer than the reference does:
(log p(chosen) - log q(chosen)) - (log p(rejected) - log q(rejected)), p the policy and q the
reference. Where both are the same model it is 0, and the loss of DPO is ln 2.
"""

import torch.nn.functional as F
from torch import Tensor


def answer_logprobs(losses: Tensor, mask: Tensor) -> Tensor:
    """Summed log-probabilities (B,) of the tokens of losses (B, T) where the mask is true."""
    return -(losses * mask).sum(1)


def dpo(margin: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """Losses (B,) of direct preference optimization (Rafailov et al. 2023, equation 7).

    Args:
        margin: (B,).
        beta: how much a nat of the margin counts; the larger, the closer the policy stays.
        label_smoothing: probability that a pair is the wrong way round: conservative DPO
            (Mitchell 2023, equation 3).
    """
    right, wrong = F.logsigmoid(beta * margin), F.logsigmoid(-beta * margin)
    return -(1 - label_smoothing) * right - label_smoothing * wrong


def ipo(margin: Tensor, beta: float) -> Tensor:
    """Losses (B,) of identity preference optimization (Azar et al. 2023, equation 17).

    The margin is drawn to 1 / (2 beta), and no further.

    Args:
        margin: (B,), of log-probabilities per token of the answer, as its authors take them.
        beta: their tau.
    """
    return (margin - 1 / (2 * beta)).square()
