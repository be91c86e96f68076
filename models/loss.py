"""The loss of a language model from its final vectors, a few tokens' logits at a time.

The logits of a micro-batch are its largest tensor by far: at a vocabulary of 50,257, one of
8 x 1,024 tokens has 1.6 GB of them in fp32, and as much again as their gradient. Here they are
never whole.

B batch, T time (tokens), D model width, V vocabulary, N = B x T; losses are in nats.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LOGITS_BYTES = 2**27
"""Most bytes of fp32 logits that are held at once. Fewer save little, and cost a pass over the
gradient of the head for each chunk."""


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Negative log-likelihood of each target: fp32 (B, T).

    Args:
        hidden: (B, T, D), what the head is applied to.
        head: (V, D), the weights of the output layer.
        targets: (B, T) int64.
    """
    dtype = matmul_dtype(hidden)
    rows, wanted = hidden.flatten(0, 1).to(dtype), targets.flatten()
    parts = [
        checkpoint(
            _losses, rows[chunk], head, wanted[chunk], use_reentrant=False, preserve_rng_state=False
        )
        for chunk in _chunks(len(rows), len(head))
    ]
    return torch.cat(parts).view_as(targets)


def summed_loss(hidden: Tensor, head: Tensor, targets: Tensor, loss_mask: Tensor) -> Tensor:
    """Negative log-likelihood of the targets where the mask is true, summed: an fp32 scalar.

    Its gradient is computed along with it, so that no logits are computed twice: on top of
    `token_losses` arguments, loss_mask is bool (B, T). A second backward pass raises RuntimeError.
    """
    rows = hidden.flatten(0, 1).to(matmul_dtype(hidden))
    loss: Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
        rows, head, targets.flatten(), loss_mask.flatten()
    )
    return loss


class _SummedLoss(torch.autograd.Function):
    """Minus the sum over n of mask[n] x logsoftmax(z[n])[target[n]], with z = rows @ head^T.

    Its gradient by z[n] is mask[n] x (softmax(z[n]) - onehot(target[n])).
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, head: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        """Sum the losses of rows (N, D), and the gradients where they are asked for."""
        to_rows, to_head = ctx.needs_input_grad[:2]
        total = torch.zeros((), device=rows.device)
        rows_gradient = torch.empty_like(rows) if to_rows else None
        head_gradient: Tensor | None = None
        with torch.autocast(rows.device.type, enabled=False):
            weights = head.to(rows.dtype)
            for chunk in _chunks(len(rows), len(head)):
                wanted, counted = targets[chunk, None], mask[chunk, None]  # (n, 1)
                logprobs = (rows[chunk] @ weights.T).float().log_softmax(1)  # (n, V)
                total -= torch.where(counted, logprobs.gather(1, wanted), 0.0).sum()
                if not (to_rows or to_head):
                    continue
                by_logits = logprobs.exp_()  # in their memory
                by_logits.scatter_add_(1, wanted, by_logits.new_full((), -1.0).expand_as(wanted))
                by_logits = by_logits.to(rows.dtype)
                # The mask is applied where there are D numbers of a token, not V.
                if rows_gradient is not None:
                    rows_gradient[chunk] = torch.where(counted, by_logits @ weights, 0.0)
                if to_head:
                    part = by_logits.T @ torch.where(counted, rows[chunk], 0.0)
                    head_gradient = (
                        part.float() if head_gradient is None else head_gradient.add_(part)
                    )
        ctx.gradients = rows_gradient, head_gradient, head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what `forward` has found by the gradient of the loss."""
        if ctx.gradients is None:
            raise RuntimeError("the gradient of this loss has been used; compute the loss again")
        (scale,) = gradients
        rows_gradient, head_gradient, dtype = ctx.gradients
        ctx.gradients = None
        if rows_gradient is not None:
            rows_gradient = rows_gradient.mul_(scale)
        if head_gradient is not None:
            head_gradient = head_gradient.mul_(scale).to(dtype)
        return rows_gradient, head_gradient, None, None


def _losses(rows: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Losses (n,) of rows (n, D), in fp32."""
    logits = F.linear(rows, head.to(rows.dtype)).float()
    return F.cross_entropy(logits, targets, reduction="none")


def _chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    """Slices of so many rows that their logits take at most LOGITS_BYTES; one at least."""
    size = max(1, LOGITS_BYTES // (4 * vocabulary))
    return (slice(start, start + size) for start in range(0, rows, size))


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Return what a matrix product of x is computed in: autocast's type, else its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
