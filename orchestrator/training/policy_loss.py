"""Losses of a policy and of a critic, as pure functions of what each token of an answer got.

B answers, T tokens. Losses are (B, T), one for each token; `token_weights` says what each counts,
so that the sum over a step, divided by `step_weight`, does not depend on how the step is cut into
micro-batches and ranks. What stands outside the mask counts nothing.
"""

import torch
from torch import Tensor

from orchestrator.training.kl import LARGEST

LOSSES = ("clip", "gspo", "cispo")
AGGREGATIONS = ("token", "sequence", "constant")


def policy_loss(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    how: str = "clip",
    low: float = 0.2,
    high: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Losses (B, T), and which of the tokens are clipped, bool (B, T).

    With r = p(token) / p_old(token) and A the advantage:
    `clip`: -min(r A, clip(r, 1 - low, 1 + high) A) (Schulman et al. 2017, equation 7; with high
    above low, Yu et al. 2025, DAPO).
    `gspo`: the same with one r for the whole answer, the geometric mean of its tokens' (Zheng et
    al. 2025, equation 7); for aggregation by sequence.
    `cispo`: -stop_gradient(clip(r, 1 - low, 1 + high)) A log p: a clipped token keeps its gradient
    (MiniMax 2025, equation 4).

    Args:
        logprobs: (B, T), of the policy as it is now.
        old: (B, T), of the policy that has written the answers.
        advantages: (B, T).
        mask: bool (B, T).
        how: one of LOSSES.
        low: how far below 1 the ratio counts.
        high: how far above 1 it counts.
    """
    ratio = ratios(logprobs, old, mask, sequence=how == "gspo")
    bounded = ratio.clamp(1 - low, 1 + high)
    if how == "cispo":
        losses = -bounded.detach() * advantages * logprobs
        clipped = bounded != ratio
    else:
        losses = -torch.minimum(ratio * advantages, bounded * advantages)
        clipped = bounded * advantages < ratio * advantages
    return torch.where(mask, losses, 0.0), clipped.detach() & mask


def ratios(logprobs: Tensor, old: Tensor, mask: Tensor, *, sequence: bool = False) -> Tensor:
    """p / p_old of each token, (B, T), 1 outside the mask.

    With `sequence`, the geometric mean over the answer, at each of its tokens.
    """
    difference = torch.where(mask, logprobs - old, 0.0)
    if sequence:
        mean = difference.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
        difference = torch.where(mask, mean, 0.0)
    return torch.exp(difference.clamp(-LARGEST, LARGEST))


def value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> Tensor:
    """Losses (B, T) of a critic: half the squared error, the larger of the clipped and the plain.

    Args:
        values: (B, T), of the critic as it is now.
        old: (B, T), as it was when the answers were written.
        returns: (B, T), what it should have said.
        mask: bool (B, T).
        clip: how far a value counts as having moved from the old one. None: as far as it has.
    """
    losses = (values - returns).square()
    if clip is not None:
        near = old + (values - old).clamp(-clip, clip)
        losses = torch.maximum(losses, (near - returns).square())
    return torch.where(mask, losses / 2, 0.0)


def token_weights(mask: Tensor, how: str, longest: int) -> Tensor:
    """What the loss of each token counts, fp32 (B, T).

    Args:
        mask: bool (B, T).
        how: one of AGGREGATIONS. `token`: each token the same over the whole step (DAPO).
            `sequence`: each answer the same, its tokens share that (GRPO). `constant`: each answer
            divided by `longest`, so that a long one counts more (Dr. GRPO).
        longest: tokens that an answer may have.
    """
    each: Tensor | float = 1.0
    if how == "sequence":
        each = 1 / mask.sum(1, keepdim=True).clamp(min=1).float()
    elif how == "constant":
        each = 1 / longest
    return torch.where(mask, each, 0.0)


def step_weight(mask: Tensor, how: str) -> float:
    """What the weighted losses of these answers are divided by, summed over the step."""
    return float(mask.sum() if how == "token" else mask.any(1).sum())
