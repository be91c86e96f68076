"""Which tokens a token attends to, as masks of booleans that all layers of a model share.

B batch, T time (new tokens), S time with the cached tokens before them.
"""

import torch
from torch import Tensor

from models.cache import KVCache
from models.configs import GPTConfig


def other_mask(
    config: GPTConfig, columns: Tensor, cache: KVCache | None, starts: Tensor | None = None
) -> Tensor | None:
    """Return the mask of `config.mask` where it is not causal, bool (T, S) or (B, 1, T, S).

    None: causal will do, as no window is full yet.

    Args:
        config: of the model.
        columns: places of the new tokens in their rows, int64 (T,), the last T of S.
        cache: its padding is seen by nobody.
        starts: where the document of each token starts, int64 (B, T); other documents are not seen.
    """
    S = len(columns) + (0 if cache is None else cache.length)
    padded = cache is not None and cache.starts is not None
    t, s = columns[:, None], torch.arange(S, device=columns.device)
    if config.mask == "sliding_window":
        if config.window_width >= S and starts is None and not padded:
            return None
        seen = (s <= t) & (s > t - config.window_width)
    elif config.mask == "reversed":
        seen = s >= t
    else:
        seen = torch.ones_like(s >= t)
    if starts is not None:
        seen = seen & (starts[:, None, :, None] == starts[:, None, None, :])
    if padded:
        assert cache is not None
        assert cache.starts is not None
        real = (s >= cache.starts[:, None])[:, None, None, :]  # (B, 1, 1, S)
        # Padding sees itself, for a softmax over nothing is not a number.
        seen = (seen & real) | (s == t)
    return seen
