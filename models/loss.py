"""The loss of a language model from its final vectors, a few tokens' logits at a time.

The logits of a micro-batch are its largest tensor by far: at a vocabulary of 50,257, one of
8 x 1,024 tokens has 1.6 GB of them in fp32, and as much again as their gradient. Here they are
never whole.

B batch, T time (tokens), D model width, V vocabulary, N = B x T; losses are in nats.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.counted import MOST_SELECTED, selecting_pays
from models.formulas.loss import LOGITS_BYTES, SOFTMAX_BYTES
from models.projection import matmul_dtype, without_autocast

ALIGNED_TO = {"cuda": 64}
"""The head gets rows of zeros up to such a multiple where it is multiplied: a GPU's tensor cores
want it, and 50,257 is odd. Their logits are no part of the softmax."""


def token_losses(
    hidden: Tensor, head: Tensor, targets: Tensor, loss_mask: Tensor | None = None
) -> Tensor:
    """Negative log-likelihood of each target: fp32 (B, T), 0 where the mask is false.

    Args:
        hidden: (B, T, D), what the head is applied to.
        head: (V, D), the weights of the output layer.
        targets: (B, T) int64.
        loss_mask: bool (B, T). None: all count.
    """
    return per_token(losses_of_logits, *_projected(hidden, head), targets, loss_mask)


def token_grades(hidden: Tensor, head: Tensor, targets: Tensor, loss_mask: Tensor) -> Tensor:
    """Negative log-likelihood of each target that counts, and whether it is the likeliest token.

    Args:
        hidden: (B, T, D), what the head is applied to.
        head: (V, D), the weights of the output layer.
        targets: (B, T) int64.
        loss_mask: bool (B, T).

    Returns:
        fp32 (2, B, T): the losses, and 1 or 0; 0 where the mask is false. Without a gradient.
    """
    with torch.no_grad():
        found = per_token(grades_of_logits, *_projected(hidden, head), targets, loss_mask)
    return found.movedim(-1, 0)


def token_scores(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    temperature: float,
    loss_mask: Tensor | None = None,
) -> Tensor:
    """Log-probability of each target and entropy of what it is drawn from: fp32 (B, T, 2).

    Args:
        hidden: (B, T, D), what the head is applied to.
        head: (V, D), the weights of the output layer.
        targets: (B, T) int64.
        temperature: what the logits are divided by before the softmax.
        loss_mask: bool (B, T); 0 where it is false. None: all count.
    """
    scores = partial(scores_of_logits, temperature=temperature)
    return per_token(scores, *_projected(hidden, head), targets, loss_mask)


def losses_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """`token_losses` (n,) of logits (n, V) for targets (n,)."""
    return F.cross_entropy(logits.float(), targets, reduction="none")


def grades_of_logits(logits: Tensor, targets: Tensor) -> Tensor:
    """`token_grades` (n, 2) of logits (n, V) for targets (n,)."""
    right = (logits.argmax(-1) == targets).float()
    return torch.stack([losses_of_logits(logits, targets), right], -1)


def scores_of_logits(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """`token_scores` (n, 2) of logits (n, V) for targets (n,)."""
    logprobs = (logits.float() / temperature).log_softmax(-1)
    chosen = logprobs.gather(-1, targets[..., None])[..., 0]
    entropy = -(logprobs.exp() * logprobs).sum(-1)
    return torch.stack([chosen, entropy], -1)


def summed_loss(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    loss_mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of the targets where the mask is true, summed: an fp32 scalar.

    Its gradient is computed along with it, so that no logits are computed twice. A second backward
    pass raises RuntimeError.

    Args:
        hidden: (B, T, D), what the head is applied to.
        head: (V, D), the weights of the output layer.
        targets: (B, T) int64.
        loss_mask: bool (B, T). None: all count.
        bias: (V,), of the output layer. None: it has none.
        label_smoothing: share of each label that all tokens get alike (Szegedy et al. 2016,
            section 7), as in torch's cross_entropy.
    """
    mask = torch.ones_like(targets, dtype=torch.bool) if loss_mask is None else loss_mask
    if loss_mask is not None and _selecting_pays(loss_mask):
        hidden, targets, mask = (x[loss_mask][None] for x in (hidden, targets, mask))
    rows = hidden.flatten(0, 1).to(matmul_dtype(hidden))
    loss: Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
        rows, head, bias, targets.flatten(), mask.flatten(), label_smoothing
    )
    return loss


def _selecting_pays(mask: Tensor) -> bool:
    """Whether to leave out what a mask does: where answers alone count, that is most."""
    return selecting_pays(mask.device) and bool(mask.sum() < MOST_SELECTED * mask.numel())


class _SummedLoss(torch.autograd.Function):
    """Minus the sum over n of mask[n] x label[n] . logsoftmax(z[n]), with z = rows @ head^T + bias.

    label[n] is (1 - s) x onehot(target[n]) + s / V, s the smoothing. The gradient by z[n] is
    mask[n] x (softmax(z[n]) - label[n]).
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        head: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        mask: Tensor,
        smoothing: float,
    ) -> Tensor:
        """Sum the losses of rows (N, D), and the gradients where they are asked for."""
        to_rows, to_head, to_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), device=rows.device)
        rows_gradient = torch.empty_like(rows) if to_rows else None
        head_gradient: Tensor | None = None
        bias_gradient = None
        if bias is not None and to_bias:
            bias_gradient = torch.zeros_like(bias, dtype=torch.float32)
        V = len(head)
        with without_autocast(rows):
            weights = _aligned(head.to(rows.dtype))  # (V', D), V' >= V
            for chunk in chunks_of(rows, V, LOGITS_BYTES):
                wanted, counted = targets[chunk, None], mask[chunk, None]  # (n, 1)
                logits = rows[chunk] @ weights.T  # (n, V')
                logits[:, V:] = -torch.inf
                if bias is not None:
                    logits[:, :V] += bias.to(logits.dtype)
                for block in chunks_of(logits, V, SOFTMAX_BYTES):
                    target, counts = wanted[block], counted[block]
                    logprobs = logits[block].float().log_softmax(1)
                    likely = (1 - smoothing) * logprobs.gather(1, target)
                    if smoothing:
                        likely += smoothing * logprobs[:, :V].mean(1, keepdim=True)
                    # Not in place: torch 2.11 compiles a result that was changed to one without
                    # gradients.
                    total = total - torch.where(counts, likely, 0.0).sum()
                    if not (to_rows or to_head or to_bias):
                        continue
                    gradient = logprobs.exp_()  # in their memory
                    if smoothing:
                        gradient[:, :V] -= smoothing / V
                    label = gradient.new_full((), smoothing - 1)
                    gradient.scatter_add_(1, target, label.expand_as(target))
                    if bias_gradient is not None:
                        bias_gradient += torch.where(counts, gradient[:, :V], 0.0).sum(0)
                    logits[block] = gradient
                # What was logits is their gradient, if any is asked for. The mask is applied where
                # there are D numbers of a token, not V.
                if rows_gradient is not None:
                    rows_gradient[chunk] = torch.where(counted, logits @ weights, 0.0)
                if to_head:
                    part = logits.T @ torch.where(counted, rows[chunk], 0.0)
                    head_gradient = (
                        part.float() if head_gradient is None else head_gradient.add_(part)
                    )
        if to_head and head_gradient is None:  # not a single row
            head_gradient = torch.zeros_like(head, dtype=torch.float32)
        ctx.gradients = rows_gradient, head_gradient, bias_gradient
        ctx.vocabulary = V
        ctx.dtypes = head.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Scale what `forward` has found by the gradient of the loss."""
        if ctx.gradients is None:
            raise RuntimeError("the gradient of this loss has been used; compute the loss again")
        (scale,) = gradients
        rows_gradient, head_gradient, bias_gradient = ctx.gradients
        ctx.gradients = None
        to_head, to_bias = ctx.dtypes
        if rows_gradient is not None:
            rows_gradient = rows_gradient.mul_(scale)
        if head_gradient is not None:
            head_gradient = head_gradient[: ctx.vocabulary].mul_(scale).to(to_head)
        if bias_gradient is not None:
            bias_gradient = bias_gradient.mul_(scale).to(to_bias)
        return rows_gradient, head_gradient, bias_gradient, None, None, None


def per_token(
    tell: Callable[[Tensor, Tensor], Tensor],
    hidden: Tensor,
    logits_of: Callable[[Tensor], Tensor],
    vocabulary: int,
    targets: Tensor,
    loss_mask: Tensor | None,
) -> Tensor:
    """What is to be told of each target, (B, T, ...), 0 where the mask is false.

    The logits of several chunks are not kept for the backward pass, but computed again.

    Args:
        tell: from logits (n, V) and targets (n,) to (n, ...).
        hidden: (B, T, D), what logits are made of.
        logits_of: from rows of them, (n, D), to logits (n, V).
        vocabulary: V.
        targets: (B, T) int64.
        loss_mask: bool (B, T). None: all count.
    """
    selected = loss_mask is not None and _selecting_pays(loss_mask)
    rows, wanted = (x[loss_mask] if selected else x.flatten(0, 1) for x in (hidden, targets))

    def of_chunk(rows: Tensor, wanted: Tensor) -> Tensor:
        return tell(logits_of(rows), wanted)

    if is_cut(rows, vocabulary):
        again = partial(checkpoint, of_chunk, use_reentrant=False, preserve_rng_state=False)
        chunks = chunks_of(rows, vocabulary, LOGITS_BYTES)
        found = torch.cat([again(rows[chunk], wanted[chunk]) for chunk in chunks])
    else:
        found = of_chunk(rows, wanted)
    if selected:
        assert loss_mask is not None
        whole = found.new_zeros(*targets.shape, *found.shape[1:])
        return whole.masked_scatter(_like(loss_mask, whole), found)
    found = found.view(*targets.shape, *found.shape[1:])
    return found if loss_mask is None else found.masked_fill(~_like(loss_mask, found), 0.0)


def is_cut(rows: Tensor, vocabulary: int) -> bool:
    """Whether logits of so many rows are more than are held at once."""
    return len(list(chunks_of(rows, vocabulary, LOGITS_BYTES))) > 1


def _projected(hidden: Tensor, head: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor], int]:
    """Vectors (B, T, D), how logits are made of them by a head (V, D), and V."""
    hidden = hidden.to(matmul_dtype(hidden))
    weights, V = _aligned(head.to(hidden.dtype)), len(head)
    return hidden, lambda rows: F.linear(rows, weights)[:, :V], V


def _like(mask: Tensor, values: Tensor) -> Tensor:
    """A mask (B, T) with as many dimensions as values (B, T, ...)."""
    return mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim)).expand_as(values)


def _aligned(weights: Tensor) -> Tensor:
    """Weights (V, D) with as many rows of zeros as make V a multiple that the device wants."""
    lacking = -len(weights) % ALIGNED_TO.get(weights.device.type, 1)
    return F.pad(weights, (0, 0, 0, lacking)) if lacking else weights


def chunks_of(rows: Tensor, vocabulary: int, most: Mapping[str, int]) -> Iterator[slice]:
    """Slices of so many rows that their fp32 logits take at most so many bytes; one at least."""
    size = max(1, most.get(rows.device.type, most["cpu"]) // (4 * vocabulary))
    return (slice(start, start + size) for start in range(0, len(rows), size))
