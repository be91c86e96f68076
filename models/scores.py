"""Attention with another score than the dot product, to see what the dot product is good for.

Scores are written out, (B, H, T, S), in plain operations: this is for study. Attention by dot
products, which models/layers.py has, never comes here.

B batch, T time (new tokens), S time with the cached tokens before them, H query heads, K head
width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.configs import GPTConfig
from models.layers import Attention, Linear

Score = Callable[[Tensor, Tensor], Tensor]


def squared_dot(q: Tensor, k: Tensor) -> Tensor:
    """Return (q.k)^2 / K for q (B, H, T, K) and k (B, H, S, K): opposite vectors attract, too."""
    return _dot(q, k).square()


def negated_dot(q: Tensor, k: Tensor) -> Tensor:
    """Return -q.k / sqrt K; the projections can learn to undo the sign."""
    return -_dot(q, k)


def cosine(q: Tensor, k: Tensor) -> Tensor:
    """Return sqrt K x cos(q, k): the most that dot gives to vectors whose numbers have variance 1.

    The length of a vector, by which dot can attend sharply, is of no account.
    """
    cosines: Tensor = functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).mT
    return cosines * float(q.shape[-1] ** 0.5)


def _dot(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT) * float(q.shape[-1] ** -0.5)


class Additive(nn.Module):
    """v.tanh(q + k) with a learned v per head (Bahdanau et al. 2015, appendix A.1.2)."""

    def __init__(self, heads: int, head_width: int, std: float) -> None:
        """Draw the vectors."""
        super().__init__()
        self.vectors = Linear(head_width, heads, bias=False, std=std)

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the scores (B, H, T, S); a head at a time, for each takes (B, T, S, K)."""
        of_heads = [
            (q[:, h, :, None] + k[:, h, None]).tanh() @ vector
            for h, vector in enumerate(self.vectors.weight)
        ]
        return torch.stack(of_heads, 1)


SCORES: dict[str, Score] = {
    "squared_dot": squared_dot,
    "negated_dot": negated_dot,
    "cosine": cosine,
}


class ScoredAttention(Attention):
    """Self-attention by `config.score`."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        """Make the projections of one layer, and what the score learns."""
        super().__init__(config, layer)
        self.score: Score
        if config.score == "additive":
            # As wide as it takes for scores of variance 1.
            self.score = Additive(config.heads, config.head_width, config.head_width**-0.5)
        else:
            self.score = SCORES[config.score]

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Weighted sums of v (B, G, S, K), see `Attention.mix`; keeps no scores."""
        mixed: Tensor = checkpoint(self._mix_scored, q, k, v, mask, use_reentrant=False)
        return mixed

    def _mix_scored(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        k, v = self.ungrouped(k), self.ungrouped(v)  # (B, H, S, K)
        if mask is None:
            T, S = q.shape[2], k.shape[2]
            mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
        scores = self.score(q, k).float().masked_fill(~mask, -torch.inf)
        weights: Tensor = self.weights_dropout(scores.softmax(-1))
        return weights.type_as(v) @ v
