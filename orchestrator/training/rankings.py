"""Losses of reward models as pure functions of rewards.

B examples, K places of the answers of each, the better before the worse; `there`, bool (B, K), is
true where there is an answer. R rows of tokens, T tokens of the longest. A reward is that of a
whole answer given what it answers, without a unit: sigmoid of a difference of two is how likely the
first answer is preferred (Bradley and Terry 1952).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def last_values(values: Tensor, lengths: Tensor) -> Tensor:
    """Values (R,) at the last token of each row, by values (R, T) and the rows' lengths (R,).

    By the length, whatever the tokens are: the token that fills up a row may be the one that ends
    an answer.
    """
    return values.gather(1, lengths[:, None] - 1)[:, 0]


def pairs_of(there: Tensor) -> Tensor:
    """Which answers are better than which: bool (B, K, K), the better one's place first."""
    K = there.shape[1]
    above = torch.ones(K, K, dtype=torch.bool, device=there.device).triu(1)
    return there[:, :, None] & there[:, None, :] & above


def bradley_terry(rewards: Tensor, there: Tensor, margin: Tensor) -> Tensor:
    """Losses (B,): the mean over all pairs of answers (Ouyang et al. 2022, equation 1).

    Args:
        rewards: (B, K).
        there: bool (B, K).
        margin: (B,), by how much one reward shall at least be above the next (Touvron et al. 2023,
            Llama 2, equation 2).
    """
    pairs = pairs_of(there)
    differences = rewards[:, :, None] - rewards[:, None, :] - margin[:, None, None]
    losses = -F.logsigmoid(differences).where(pairs, 0.0)  # (B, K, K)
    return losses.sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)


def plackett_luce(rewards: Tensor, there: Tensor) -> Tensor:
    """Losses (B,): -log of the chance of the whole order (Plackett 1975, equation 4; Luce 1959).

    The best answer is drawn of all with softmax of the rewards, the next of those that are left.
    Of two answers it is the loss of `bradley_terry`.

    Args:
        rewards: (B, K).
        there: bool (B, K).
    """
    lowest = torch.finfo(rewards.dtype).min
    left = rewards.masked_fill(~there, lowest).flip(1).logcumsumexp(1).flip(1)  # (B, K)
    return (left - rewards).where(there, 0.0).sum(1)


def squared_error(rewards: Tensor, there: Tensor, scores: Tensor) -> Tensor:
    """Losses (B,): the mean over answers of the squared distance of rewards to scores (B, K)."""
    # Before the difference: the gradient of one that is not finite would be so, too.
    errors = rewards.where(there, 0.0) - scores.where(there, 0.0)
    return errors.square().sum(1) / there.sum(1)


def centring(rewards: Tensor, there: Tensor) -> Tensor:
    """(B,): four times the squared mean of the rewards of an example.

    Orders leave open what a reward is counted from; this times a small number, added to a loss,
    makes it their mean. Of two answers it is the squared sum of Eisenstein et al. 2023, section 2.
    """
    mean = rewards.where(there, 0.0).sum(1) / there.sum(1)
    return 4 * mean.square()
