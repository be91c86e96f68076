"""What a model keeps of the tokens it has seen, so that each is computed once.

B batch, G key and value heads, T time (new tokens), S time with the cached tokens before them,
K head width.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

KeysValues = tuple[Tensor, Tensor]
"""Of one layer, each (B, G, S, K)."""


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
        self.before: list[KeysValues] | None = None
        """Of each layer, those of tokens that stand before all texts alike, each (1, G, P, K)."""
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

    def width(self, T: int) -> int:
        """S, how many columns `extend` returns with T new ones."""
        return self.length + T

    def grow(self) -> None:
        """Each row has one more token, in all layers."""
        self.length += 1

    def column(self, device: torch.device) -> Tensor:
        """Where one more token goes, int64 (1,)."""
        return torch.full((1,), self.length, device=device)

    def placed(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Where the newest columns (T,) stand in their own rows, and what they see there.

        Returns:
            positions int64 (B, T), counted from the start of each row, and the attention mask,
            bool (B, 1, T, S). Padding sees itself, for a softmax over nothing is not a number,
            and is seen by nobody else.
        """
        assert self.starts is not None
        starts = self.starts[:, None]  # (B, 1)
        seen = torch.arange(self.width(len(columns)), device=columns.device)  # (S,)
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


class FixedKVCache(KVCache):
    """What another cache holds, one token after the other, by operations of constant shapes.

    The place of the next token is a tensor, and attention sees all the room there is, through a
    mask: so a step can be recorded once, and replayed.
    """

    def __init__(self, grown: KVCache, rows: int, device: torch.device) -> None:
        """Share the memory of `grown`, in which each layer has seen tokens of as many rows."""
        starts = grown.starts
        if starts is None:
            starts = torch.zeros(rows, dtype=torch.int64, device=device)
        super().__init__(grown.capacity, starts)
        self.length, self._layers = grown.length, grown._layers
        for both in self._layers.values():
            for each in both:  # nothing of what is there may be seen, but 0 x NaN is NaN
                each[:, :, self.length :] = 0
        self.next = grown.column(device)
        """The place of the next token, int64 (1,)."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one new key and value (B, G, 1, K); return all the room (B, G, capacity, K)."""
        all_keys, all_values = self._layers[layer]
        all_keys.index_copy_(2, self.next, keys)
        all_values.index_copy_(2, self.next, values)
        return all_keys, all_values

    def width(self, T: int) -> int:
        """All the room there is."""
        return self.capacity

    def column(self, device: torch.device) -> Tensor:
        """The tensor itself."""
        return self.next


class SlotKVCache(KVCache):
    """Keys and values of rows that come and go, each of its own length and from column 0 on.

    The n rows that are there fill the first n slots: where one leaves, the last one moves in.
    """

    def __init__(self, slots: int, capacity: int) -> None:
        """Make room for so many rows of so many tokens, as soon as the first ones enter."""
        super().__init__(capacity)
        self.slots = slots
        self.lengths = torch.zeros(0, dtype=torch.int64)
        """Tokens of each row, (n,)."""

    def enter(self, read: KVCache, rows: Tensor, lengths: Tensor) -> None:
        """Add rows that begin as rows (k,) of another cache do, with so many tokens each, (k,).

        The other holds them from column 0 on; what it holds behind them is not taken for theirs.
        """
        before, after = len(self.lengths), len(self.lengths) + len(rows)
        for layer, both in read._layers.items():
            if layer not in self._layers:
                room = (self.slots, both[0].shape[1], self.capacity, both[0].shape[3])
                # What stands behind a row is not seen, but 0 x NaN is NaN.
                keys, values = (each.new_zeros(room) for each in both)
                self._layers[layer] = keys, values
            for own, new in zip(self._layers[layer], both, strict=True):
                own[before:after, :, : read.length] = new[rows, :, : read.length]
        self.lengths = torch.cat([self.lengths.to(lengths), lengths])
        self.starts = torch.zeros_like(self.lengths)
        self.length = int(self.lengths.max())

    def leave(self, slots: Sequence[int]) -> list[int]:
        """Drop the rows in these slots; for each slot from then on, which one its row had."""
        gone, rows = set(slots), len(self.lengths)
        stay = list(range(rows - len(gone)))
        moved = (slot for slot in range(len(stay), rows) if slot not in gone)
        holes = [slot for slot in stay if slot in gone]
        for hole in holes:
            stay[hole] = next(moved)
        if holes:
            movers = [stay[hole] for hole in holes]
            for both in self._layers.values():
                for each in both:
                    each[holes, :, : self.length] = each[movers, :, : self.length]
        self.lengths = self.lengths[stay]
        self.starts = torch.zeros_like(self.lengths)
        self.length = int(self.lengths.max()) if stay else 0
        return stay

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store one new key and value (n, G, 1, K); return all of them (n, G, S, K)."""
        rows, end = torch.arange(len(keys), device=keys.device), self.length + 1
        all_keys, all_values = self._layers[layer]
        all_keys[rows, :, self.lengths] = keys[:, :, 0]
        all_values[rows, :, self.lengths] = values[:, :, 0]
        return all_keys[: len(keys), :, :end], all_values[: len(keys), :, :end]

    def grow(self) -> None:
        """Each row has one more token, in all layers."""
        self.lengths = self.lengths + 1
        self.length += 1

    def placed(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Positions (n, 1) of the newest tokens and what they see, bool (n, 1, 1, S)."""
        seen = torch.arange(self.width(1), device=self.lengths.device)
        return self.lengths[:, None], (seen <= self.lengths[:, None])[:, None, None]


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
