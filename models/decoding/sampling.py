"""From logits to one token per row: pure functions, in the order in which they are applied.

B rows, V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

TINY = torch.finfo(torch.float32).tiny  # a number below it becomes 0 where fp32 is divided by it
COOL = 1e-6  # from such a temperature on no logit becomes infinite where it is divided by it
LAST = 1 - 2.0**-52  # times it, a float64 above 0 is the one before, or nearly
STRETCH = 64  # tokens whose probabilities are summed first, to see where to look
BITS = 2**64 - 1
Number = TypeVar("Number", int, NDArray[np.uint64])


@dataclass(frozen=True)
class Sampling:
    """What is done to the logits before a token is drawn, from top to bottom.

    Raises:
        ValueError: from the constructor, for a number that makes no sense.
    """

    repetition_penalty: float = 1.0
    """A positive logit of a token that the row has already is divided by it, a negative one
    multiplied (Keskar et al. 2019, section 4.1). 1 does nothing."""
    temperature: float = 1.0
    """What the logits are divided by; 0 takes the likeliest token."""
    top_k: int | None = None
    """Draw among the k likeliest tokens only. None: among all."""
    top_p: float | None = None
    """Draw among the fewest tokens with this probability together (Holtzman et al. 2020). None:
    among all."""
    min_p: float | None = None
    """Draw among the tokens that are at least this times as likely as the likeliest one (Nguyen
    et al. 2024). None: among all."""

    def __post_init__(self) -> None:
        """Check every number."""
        if not 0 < self.repetition_penalty < math.inf:
            raise ValueError(
                f"repetition_penalty={self.repetition_penalty} must be above 0 and finite; "
                "1 does nothing"
            )
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} must be at least 0 and finite")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} must be at least 1; None draws among all tokens")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{name}={value} must be above 0 and at most 1")

    @property
    def greedy(self) -> bool:
        """Whether nothing is drawn."""
        return self.temperature == 0

    @property
    def whole(self) -> bool:
        """Whether a token is drawn among all."""
        return not self.greedy and self.top_k is self.top_p is self.min_p is None


def draw(
    logits: Tensor, sampling: Sampling, seeds: Sequence[int], place: int | Sequence[int]
) -> Tensor:
    """Choose one token for each row of logits (B, V): int64 (B,).

    A choice depends on the logits of its row, on the row's seed and on the place alone, so that a
    row draws the same tokens in any company.

    Args:
        logits: after the repetition penalty; see `penalised`.
        sampling: the settings.
        seeds: B of them, see `row_seeds`.
        place: which of its tokens a row draws, from 0; of each row, or of all.
    """
    if sampling.greedy:
        return logits.max(-1).indices  # argmax takes three times as long on a CPU
    return pick(probabilities(logits, sampling), uniforms(seeds, place).to(logits.device))


def draw_with_logprobs(
    logits: Tensor, sampling: Sampling, seeds: Sequence[int], places: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """`draw`, and how likely each token was by the logits divided by the temperature: fp32 (B,).

    Greedy, it is by the logits themselves.
    """
    if not sampling.whole:
        tokens = draw(logits, sampling, seeds, places)
        return tokens, chosen_logprobs(logits.float() / (sampling.temperature or 1.0), tokens)
    chances = probabilities(logits, sampling)
    tokens = pick(chances, uniforms(seeds, places).to(logits.device))
    return tokens, chances.gather(-1, tokens[:, None])[:, 0].log()


def uniforms(seeds: Sequence[int], place: int | Sequence[int]) -> Tensor:
    """`uniform` of each seed, at one place or at one for each: float64 (B,)."""
    own = np.array([seed & BITS for seed in seeds], dtype=np.uint64)
    drawn = _mixed(_mixed(own) + np.asarray(place, dtype=np.uint64)) >> 32
    return torch.from_numpy(drawn / 2**32)


def pick(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Take the token in whose stretch of [0, 1) a number falls: int64 (B,).

    The probabilities (B, V) are laid end to end, in the order of the tokens; uniforms (B,) are
    float64 in [0, 1). Sums of `STRETCH` tokens tell where to look: all ends in float64 took three
    times as long.
    """
    lacking = -probabilities.shape[-1] % STRETCH
    whole = functional.pad(probabilities, (0, lacking)) if lacking else probabilities
    parts = whole.view(len(whole), -1, STRETCH)  # (B, V / STRETCH, STRETCH)
    rows = torch.arange(len(parts), device=parts.device)
    ends = parts.sum(-1).double().cumsum(-1)  # (B, V / STRETCH)
    at = uniforms * ends[:, -1]  # (B,)
    # The first end above the number: its own stretch is not empty.
    part = torch.searchsorted(ends, at[:, None], right=True)[:, 0]
    at = at - torch.where(part > 0, ends[rows, (part - 1).clamp(min=0)], 0.0)
    inner = parts[rows, part].double().cumsum(-1)  # (B, STRETCH)
    # The sum that led here was rounded, and may be more than its parts.
    within = torch.minimum(at, inner[:, -1] * LAST)
    return part * STRETCH + torch.searchsorted(inner, within[:, None], right=True)[:, 0]


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Return the probability of each token (B, V), fp32, for logits (B, V); temperature above 0."""
    logits = logits.float()
    if sampling.temperature < COOL:
        # At most 0, so that a small temperature leads to -inf and never to inf, which becomes nan.
        logits = logits - logits.max(-1, keepdim=True).values
    if sampling.temperature != 1:
        logits = logits / max(sampling.temperature, TINY)
    return filtered(logits, sampling).softmax(-1)


def filtered(logits: Tensor, sampling: Sampling) -> Tensor:
    """Set the logits (B, V) of tokens that may not be drawn to -inf: top_k, then top_p, then min_p.

    Each counts the probabilities that the one before has left. Equal logits at the edge of the k
    likeliest are not all kept: exactly k remain.
    """
    top_k, top_p, min_p = sampling.top_k, sampling.top_p, sampling.min_p
    if top_k is not None and top_k < logits.shape[-1]:
        kept, index = logits.topk(top_k)  # (B, k)
        logits = torch.full_like(logits, -torch.inf).scatter(-1, index, kept)
    if top_p is not None and top_p < 1:
        ordered, index = logits.sort(descending=True)  # (B, V)
        shares = ordered.softmax(-1)
        likelier = shares.cumsum(-1) - shares  # mass of all tokens before this one
        ordered = ordered.masked_fill(likelier >= top_p, -torch.inf)
        logits = torch.empty_like(logits).scatter(-1, index, ordered)
    if min_p is not None:
        # p >= min_p x the largest p, in logarithms: both are over the same sum.
        least = logits.max(-1, keepdim=True).values + math.log(min_p)
        logits = logits.masked_fill(logits < least, -torch.inf)
    return logits


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Apply the repetition penalty to logits (B, V) where seen (B, V) is true."""
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def chosen_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Return log softmax(logits (B, V)) at tokens (B,): fp32 (B,), in nats."""
    logits = logits.float()
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def row_seeds(seed: int, rows: int) -> list[int]:
    """Return a seed for each of so many rows; row i has the same one whatever their number."""
    return [row_seed(seed, row) for row in range(rows)]


def row_seed(seed: int, row: int) -> int:
    """Return the seed of row number `row`, whatever stands before it."""
    return _mixed(_mixed(seed) + row)


def uniform(seed: int, place: int) -> float:
    """Return the number in [0, 1) with which a row of this seed draws its token number `place`.

    32 bits of SplitMix64 (Steele et al. 2014), so that a product with it is never rounded up to
    the whole.
    """
    return (_mixed(_mixed(seed) + place) >> 32) / 2**32


def _mixed(value: Number) -> Number:
    """Output number `value` of SplitMix64 from 0."""
    z: Any = (value + 1) * 0x9E3779B97F4A7C15 & BITS
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & BITS
    z = (z ^ z >> 27) * 0x94D049BB133111EB & BITS
    mixed: Number = z ^ z >> 31
    return mixed
