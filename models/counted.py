"""The tokens that a loss is about, side by side: nothing is computed of the others but what these
see of them.

B batch, T time (tokens), A most tokens of a row that count.
"""

import torch
from torch import Tensor

MOST_SELECTED = 0.75
"""Share of the tokens that count from which on all are computed."""


def selecting_pays(device: torch.device) -> bool:
    """Whether tokens that do not count may be left out on such a device, if they are many.

    A GPU would have to wait to know how many there are, and a compiled pass takes any number for
    another shape.
    """
    return device.type == "cpu" and not torch.compiler.is_compiling()


def columns_that_count(mask: Tensor) -> Tensor | None:
    """Where the tokens stand that count by a mask, bool (B, T): int64 (B, A). None: take all.

    A row that has fewer is filled up behind with tokens that do not count; none comes twice.
    """
    if not selecting_pays(mask.device):
        return None
    most = max(int(mask.sum(1).max()), 1)
    if most >= MOST_SELECTED * mask.shape[1]:
        return None
    return mask.int().argsort(dim=1, descending=True, stable=True)[:, :most]


def take(x: Tensor, columns: Tensor) -> Tensor:
    """What x (B, T, ...) has in these columns (B, A) of each row: (B, A, ...)."""
    return x.gather(1, _like(columns, x))


def put(found: Tensor, columns: Tensor, length: int) -> Tensor:
    """What was found (B, A, ...) in its columns (B, A) of rows (B, T, ...) that are 0 elsewhere."""
    whole = found.new_zeros(len(found), length, *found.shape[2:])
    return whole.scatter(1, _like(columns, found), found)


def _like(columns: Tensor, x: Tensor) -> Tensor:
    """Columns (B, A) with the dimensions of x (B, T, ...): (B, A, ...)."""
    own = columns.view(*columns.shape, *[1] * (x.ndim - 2))
    return own.expand(*columns.shape, *x.shape[2:])
