"""Objectives: pure functions of tensors. B batch, T time (tokens), V vocabulary."""

import torch
import torch.nn.functional as F
from torch import Tensor


def next_token_loss(logits: Tensor, targets: Tensor, loss_mask: Tensor) -> Tensor:
    """Summed negative log-likelihood, in nats, of the targets where the mask is true.

    A sum, not a mean: the caller divides by the valid tokens of the whole step over all ranks,
    so that the gradient does not depend on how the step is cut into micro-batches.

    Args:
        logits: (B, T, V), any float type; the softmax is taken in float32.
        targets: (B, T) int64.
        loss_mask: (B, T) bool.
    """
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), reduction="none"
    )  # (B * T,)
    return torch.where(loss_mask.flatten(), losses, 0.0).sum()
