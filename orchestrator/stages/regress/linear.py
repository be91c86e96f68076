"""The best linear model in closed form: what training approaches, or a floor that it stays above.

N examples, F features.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


def least_squares(features: Numbers, told: Numbers, *, bias: bool) -> Numbers:
    """The weights (F,) or, with a bias at their end, (F + 1,) of the least squared error.

    The solution of X^T X w = X^T y, by the pseudo-inverse, so that it is the shortest of several.

    Args:
        features: X (N, F).
        told: y (N,).
        bias: whether X gets a column of ones.
    """
    solved = np.linalg.lstsq(_with_ones(features, bias=bias), told, rcond=None)
    return solved[0].astype(np.float64)


def apply(weights: Numbers, features: Numbers, *, bias: bool) -> Numbers:
    """What they give (N,)."""
    given: Numbers = _with_ones(features, bias=bias) @ weights
    return given


def _with_ones(features: Numbers, *, bias: bool) -> Numbers:
    return np.column_stack([features, np.ones(len(features))]) if bias else features
