"""Rows of tokens of different lengths, kept end to end and padded when they are due.

N rows, B of them at a time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.order import Ids


def joined(rows: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The tokens of all rows end to end, and where each row ends, (N,)."""
    flat = [token for row in rows for token in row]
    return np.array(flat, dtype=np.int32), np.cumsum([len(row) for row in rows], dtype=np.int64)


def padded(
    tokens: NDArray[np.int32], ends: NDArray[np.int64], rows: Ids, filling: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Some of the rows, (B, longest), filled up behind, and where they are no filling.

    Args:
        tokens: as `joined` gives them.
        ends: as `joined` gives them.
        rows: (B,) places of rows.
        filling: the token to fill up with.
    """
    starts = np.where(rows > 0, ends[rows - 1], 0)
    lengths = ends[rows] - starts
    places: NDArray[Any] = np.arange(lengths.max())
    mask = places < lengths[:, None]
    index = np.minimum(starts[:, None] + places, len(tokens) - 1)
    return np.where(mask, tokens[index], filling).astype(np.int64), mask


def filled_lengths(ends: NDArray[np.int64], together: int) -> tuple[float, int]:
    """Mean tokens of a row that is filled up to the longest of so many drawn at random, and most.

    Args:
        ends: (N,), as `joined` gives them.
        together: rows of a micro-batch.
    """
    lengths = np.sort(np.diff(ends, prepend=0))
    # The longest of them is the i-th smallest length with (i / N)^k - ((i - 1) / N)^k.
    below = (np.arange(len(lengths) + 1) / len(lengths)) ** together
    return float(lengths @ np.diff(below)), int(lengths[-1])
