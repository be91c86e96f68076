"""How much better each token of an answer was than expected: pure functions of rewards and values.

B answers, T tokens; N prompts with G answers each. A mask, bool (B, T), says which tokens are of
the answer; what stands elsewhere changes nothing, whatever it is. All is computed in float64 where
small differences of equal numbers would be blown up.
"""

import math

import torch
from torch import Tensor

from orchestrator.training import distributed

EPSILON = 1e-6  # added to a standard deviation that is divided by


def penalised_rewards(
    scores: Tensor, kl: Tensor, mask: Tensor, kl_coefficient: float | Tensor
) -> Tensor:
    """Rewards (B, T): the score of the answer at its last token, less the KL penalty at each.

    Ziegler et al. 2019, equation 2, by tokens.

    Args:
        scores: (B,), of whole answers.
        kl: (B, T), estimates for each token, see kl.py.
        mask: bool (B, T). An answer without a token has no reward.
        kl_coefficient: what a nat costs.
    """
    rewards = torch.where(mask, -kl_coefficient * kl, 0.0)
    return rewards + torch.where(last_tokens(mask), scores[:, None].to(rewards.dtype), 0.0)


def last_tokens(mask: Tensor) -> Tensor:
    """The last token of each answer, bool (B, T)."""
    after = mask.flip(1).cumsum(1).flip(1)  # tokens of the answer from here on
    return mask & (after == 1)


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (B, T) (Schulman et al. 2016, equation 16), 0 outside the mask.

    An answer's last token is followed by nothing: the value behind it is 0. Tokens inside that are
    not masked, such as what a tool has said, are passed over: no discount falls on them.

    Args:
        rewards: (B, T).
        values: (B, T), what is expected from each token on, before it is chosen.
        mask: bool (B, T).
        gamma: discount of a later reward, for each token.
        lam: how far rewards, and not values, are looked at: 1 to the end, 0 to the next token.
    """
    found: list[Tensor] = []
    carried = following = torch.zeros_like(values[:, 0])
    tokens = list(zip(*(x.unbind(1) for x in (rewards, values, mask)), strict=True))
    for reward, value, on in reversed(tokens):
        surprise = reward + gamma * following - value
        carried = torch.where(on, surprise + gamma * lam * carried, carried)
        following = torch.where(on, value, following)
        found.append(carried)
    advantages = torch.where(mask, torch.stack(found[::-1], 1), 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """The sum of rewards (B, T) from each token of an answer to its end, 0 outside the mask."""
    own = torch.where(mask, rewards, 0.0)
    return torch.where(mask, own.flip(1).cumsum(1).flip(1), 0.0)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values (B, T) shifted and scaled to mean 0 and variance 1 over the masks of all ranks.

    Every rank calls it. The variance is that of the numbers at hand, divided by their count; where
    all are the same, all become 0. Outside the mask is 0.

    Args:
        values: (B, T).
        mask: bool (B, T).
    """
    own = torch.where(mask, values.double(), 0.0)
    count, total = distributed.sum_over_ranks([float(mask.sum()), float(own.sum())], values.device)
    mean = total / max(count, 1.0)
    centered = torch.where(mask, own - mean, 0.0)
    [squares] = distributed.sum_over_ranks([float(centered.square().sum())], values.device)
    deviation = math.sqrt(squares / max(count, 1.0))
    return (centered / (deviation + EPSILON)).to(values.dtype)


def group_relative(rewards: Tensor, how: str) -> Tensor:
    """Advantages (N, G) of the answers to each prompt, in the dtype of the rewards.

    A group whose answers all got the same reward, or that has one answer, says nothing: 0.

    Args:
        rewards: (N, G).
        how: one of ADVANTAGES. `grpo`: less the mean of the group, divided by its unbiased
            standard deviation (Shao et al. 2024, section 4.1.2). `dr_grpo`: less the mean alone
            (Liu et al. 2025, section 3.2). `rloo`: less the mean of the others (Ahmadian et al.
            2024, equation 8). `reinforce_pp`: REINFORCE++ has no group (Hu et al. 2025): the
            rewards themselves, to be whitened over the whole step.
    """
    if how == "reinforce_pp":
        return rewards
    G = rewards.shape[1]
    own = rewards.double()
    centered = own - own.mean(1, keepdim=True)
    equal = (own == own[:, :1]).all(1, keepdim=True)  # a mean of equal numbers may be rounded
    centered = torch.where(equal, 0.0, centered)
    if how == "grpo":
        deviation = (centered.square().sum(1, keepdim=True) / max(G - 1, 1)).sqrt()
        centered = centered / (deviation + EPSILON)
    elif how == "rloo":
        centered = centered * G / max(G - 1, 1)
    return centered.to(rewards.dtype)


ADVANTAGES = ("grpo", "dr_grpo", "rloo", "reinforce_pp")
