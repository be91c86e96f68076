"""Losses of preference pairs as pure functions of log-probabilities.

B pairs. A log-probability is that of a whole answer, its end token too, given what it answers, in
nats; p is the policy and q the reference. A gain is log p - log q of an answer; `margin` (B,) is
the gain of the chosen answer less that of the rejected one. Where both are the same model it is 0,
and the loss of DPO is ln 2.
"""

import torch
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


def kto(gains: Tensor, kl: Tensor, beta: float) -> Tensor:
    """Losses (B,) of Kahneman-Tversky optimization (Ethayarajh et al. 2024, equation 8).

    Each answer counts by itself, good or bad, so that a batch has as many of both kinds; both
    weigh 1. Half of their sum, so that it is 1/2 where policy and reference are the same.

    Args:
        gains: (B, 2) of the chosen and the rejected answers.
        kl: (), the reference point z: how far the policy is from the reference, in nats, at least
            0 and without a gradient; the same for the batches of all ranks.
        beta: how soon a gain is worth no more.
    """
    chosen, rejected = gains.unbind(1)
    good, bad = torch.sigmoid(beta * (chosen - kl)), torch.sigmoid(beta * (kl - rejected))
    return 1 - (good + bad) / 2


def simpo(logprobs: Tensor, lengths: Tensor, beta: float, gap: float) -> Tensor:
    """Losses (B,) of simple preference optimization (Meng et al. 2024, equation 6): no reference.

    Args:
        logprobs: (B, 2) of the chosen and the rejected answers.
        lengths: (B, 2), their tokens.
        beta: how much a nat per token counts.
        gap: their gamma, by how much the chosen answer is to be ahead.
    """
    chosen, rejected = (logprobs / lengths).unbind(1)
    return -F.logsigmoid(beta * (chosen - rejected) - gap)


def orpo(logprobs: Tensor, lengths: Tensor, beta: float) -> Tensor:
    """Losses (B,) of odds ratio preference optimization (Hong et al. 2024, equations 6 and 7).

    The loss of the chosen answer per token, as in supervised fine-tuning, and beta times how
    unlikely its odds, p / (1 - p) with p the geometric mean over tokens, beat the other's. There is
    no reference.

    Args:
        logprobs: (B, 2) of the chosen and the rejected answers.
        lengths: (B, 2), their tokens.
        beta: their lambda.
    """
    per_token = logprobs / lengths
    # log(1 - exp x) without the loss of digits near x = 0; a sure answer has no odds.
    sure = -torch.finfo(per_token.dtype).eps
    log_odds = per_token - torch.log(-torch.expm1(per_token.clamp(max=sure)))
    chosen, rejected = log_odds.unbind(1)
    return -per_token[:, 0] - beta * F.logsigmoid(chosen - rejected)
