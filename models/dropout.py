"""Dropout whose mask belongs to the sample, not to the batch that the sample happens to be in.

torch's dropout draws from one stream of random numbers per process, so its masks change with the
number of ranks, the micro-batch size and the device. Inside `keyed`, the mask of an element is a
pure function of its sample's seed, of the Dropout module and of the element's indices within the
sample: nothing is drawn, nothing is remembered, and whatever computes it again finds it again.

B samples; an element of a sample has the indices (i1, ..., in) after the first dimension.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the step between numbers of SplitMix64

# One per process, not per thread: on a GPU autograd computes the checkpointed part of a forward
# pass again in a thread of its own, and must find the same seeds there.
_seeds: Tensor | None = None


@contextmanager
def keyed(seeds: Tensor) -> Iterator[None]:
    """Key every `Dropout` of a forward pass, and of its backward pass, by the sample.

    Both passes of a micro-batch belong inside: with activation checkpointing the backward pass
    computes masks again. Of one process, only one thread may be inside.

    Args:
        seeds: int64 (B,), on the device of the model: one for each sample of the micro-batch,
            in its order. Any numbers will do, near ones too; equal ones give equal masks.

    Raises:
        ValueError: seeds has another shape or type.
    """
    if seeds.ndim != 1 or seeds.dtype != torch.int64:
        raise ValueError(
            f"seeds is {seeds.dtype} of shape {tuple(seeds.shape)}; it must be int64 (B,), one "
            "for each sample"
        )
    global _seeds
    outer, _seeds = _seeds, _mix64(seeds)
    try:
        yield
    finally:
        _seeds = outer


def is_keyed() -> bool:
    """Whether a forward pass is inside `keyed`."""
    return _seeds is not None


class Dropout(nn.Module):
    """Zeroes each element with probability p and scales the others by 1 / (1 - p), in training.

    Outside of `keyed` it is torch's own. A module that is called twice in a forward pass uses the
    same mask twice, as variational dropout does (Gal and Ghahramani 2016).
    """

    def __init__(self, p: float) -> None:
        """Make it; the model that it is part of numbers it, see `number_dropouts`."""
        super().__init__()
        self.p = p
        self.site: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of x (B, ...).

        Raises:
            ValueError: inside `keyed`, if there are not as many seeds as samples.
        """
        if not self.training or self.p == 0:
            return x
        if _seeds is None:
            return functional.dropout(x, self.p)
        assert self.site is not None, "the constructor of the model must call number_dropouts"
        if len(_seeds) != len(x):
            raise ValueError(
                f"dropout got {len(x)} samples and {len(_seeds)} seeds; give keyed() a seed for "
                "each sample of the micro-batch"
            )
        keep = keep_mask(_seeds.to(x.device), self.site, x.shape[1:], self.p)
        return torch.where(keep, x * (1 / (1 - self.p)), 0.0)

    def extra_repr(self) -> str:
        """For printing a model."""
        return f"p={self.p}"


def number_dropouts(model: nn.Module) -> None:
    """Give each Dropout of a whole model a number, so that no two share their masks."""
    dropouts = [module for module in model.modules() if isinstance(module, Dropout)]
    for site, module in enumerate(dropouts):
        module.site = site


def keep_mask(seeds: Tensor, site: int, shape: torch.Size, p: float) -> Tensor:
    """Return which elements stay, bool (B, *shape), each with probability 1 - p.

    The mask of a sample does not depend on how far its dimensions extend: rows padded to another
    length keep the mask of what they had.

    A counter-based generator (Salmon et al. 2011) in 32 bits: each element has a scrambled number
    of its own, and each (sample, site) an affine map of it, then one more round of scrambling.
    Without the first scrambling, elements at some distances are correlated.

    Args:
        seeds: int64 (B,), well mixed.
        site: number of the Dropout module.
        shape: of a sample.
        p: probability to drop an element.
    """
    # Number `site` of the SplitMix64 stream (Steele et al. 2014) that starts at each seed.
    key = _mix64(seeds + _signed(site * GOLDEN, 64)).view(torch.int32)  # (2B,), halves
    factor, shift = key.view(-1, 2, *(1,) * len(shape)).unbind(1)  # each (B, 1, ..., 1)
    places = torch.zeros((), dtype=torch.int32, device=seeds.device)
    for extent in shape:
        index = torch.arange(extent, dtype=torch.int32, device=seeds.device)
        places = _scramble(places[..., None] + index)
    bits = _xor_shift(torch.addcmul(shift, places, factor | 1), 15)  # an odd factor loses no bit
    bits *= _signed(0x846CA68B, 32)
    return bits >= round(p * 2**32) - 2**31


def _scramble(x: Tensor) -> Tensor:
    """Map int32 to int32, one to one, so that each bit of x flips each bit in half of all cases.

    It is lowbias32 of Chris Wellons, without the first shift, which small x do not need.
    """
    x = _xor_shift(x * 0x7FEB352D, 15)
    x *= _signed(0x846CA68B, 32)
    return _xor_shift(x, 16)


def _xor_shift(x: Tensor, by: int) -> Tensor:
    """x ^= x >> by, in place, with zeros and not the sign shifted in: int32."""
    x ^= (x >> by) & ((1 << (32 - by)) - 1)
    return x


def _mix64(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64, a one-to-one map of int64 to int64."""
    x = (x ^ (x >> 30 & (1 << 34) - 1)) * _signed(0xBF58476D1CE4E5B9, 64)
    x = (x ^ (x >> 27 & (1 << 37) - 1)) * _signed(0x94D049BB133111EB, 64)
    return x ^ (x >> 31 & (1 << 33) - 1)


def _signed(value: int, bits: int) -> int:
    """The two's complement of the lowest bits of a value, as torch takes integers."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
