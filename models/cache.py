"""What a model keeps of the tokens it has seen, so that each is computed once.

B batch, G key and value heads, T time (new tokens), S time with the cached tokens before them,
K head width.
"""

from typing import Any, Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """What every model's memory has.

    `length` counts the tokens seen.

    `starts`, int64 (B,), is for rows of different lengths, which all end at the same place: row b
    begins at column starts[b], and what stands before is padding. None: all begin at 0.
    """

    length: int
    starts: Tensor | None

    def select(self, rows: Tensor) -> None:
        """Let row i go on from what row rows[i] has seen; rows is int64 (B',), may repeat some."""


class KVCache:
    """Keys and values of every token: a Transformer's memory, which grows with the text.

    Room for `capacity` tokens is made once, at a layer's first use, in the dtype the keys then
    have (autocast changes it).
    """

    def __init__(self, capacity: int, starts: Tensor | None = None) -> None:
        """Start empty."""
        self.capacity = capacity
        self.starts = starts
        self.length = 0
        self.foreign: Any = None
        """What a model of the package transformers keeps instead."""
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store the new keys and values (B, G, T, K) of a layer; return all of them (B, G, S, K).

        Raises:
            ValueError: there is no room for T more tokens.
        """
        B, G, T, K = keys.shape
        end = self.length + T
        if end > self.capacity:
            raise ValueError(
                f"the cache holds {self.length} of {self.capacity} tokens and has no room for {T} "
                f"more; make it KVCache({end}) or larger"
            )
        if layer not in self._layers:
            room = (B, G, self.capacity, K)
            self._layers[layer] = (keys.new_empty(room), values.new_empty(room))
        all_keys, all_values = self._layers[layer]
        all_keys[:, :, self.length : end] = keys
        all_values[:, :, self.length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def placed(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Where the newest columns (T,) stand in their own rows, and what they see there.

        Returns:
            positions int64 (B, T), counted from the start of each row, and the attention mask,
            bool (B, 1, T, S). Padding sees itself, for a softmax over nothing is not a number,
            and is seen by nobody else.
        """
        assert self.starts is not None
        starts = self.starts[:, None]  # (B, 1)
        seen = torch.arange(self.length + len(columns), device=columns.device)  # (S,)
        within = (starts[:, :, None] <= seen) & (seen <= columns[:, None])  # (B, T, S)
        mask = within | (seen == columns[:, None])
        return (columns - starts).clamp(min=0), mask[:, None]

    def select(self, rows: Tensor) -> None:
        """Let row i go on from what row rows[i] has seen; rows is int64 (B',), may repeat some."""
        if self.starts is not None:
            self.starts = self.starts[rows]
        if self.foreign is not None:
            self.foreign.batch_select_indices(rows)
        for layer, both in self._layers.items():
            keys, values = (each.new_empty((len(rows), *each.shape[1:])) for each in both)
            for new, old in zip((keys, values), both, strict=True):
                new[:, :, : self.length] = old[rows, :, : self.length]
            self._layers[layer] = (keys, values)


class StateCache:
    """Some tensors (B, ...) that sum up all tokens: a memory of constant size."""

    def __init__(self, starts: Tensor | None = None) -> None:
        """Start empty."""
        self.starts = starts
        self.length = 0
        self.states: list[tuple[Tensor, ...]] = []
        """Of each layer; none before the first token."""

    def select(self, rows: Tensor) -> None:
        """See `Cache`."""
        if self.starts is not None:
            self.starts = self.starts[rows]
        self.states = [tuple(part[rows] for part in state) for state in self.states]
