"""The order in which samples are seen: a keyed permutation of each epoch, computed, never stored.

Position p of a run is in epoch p // N at local index i = p % N; sample id = permutation[epoch](i).
1. Lane l = i mod C, row r = i div C: fixed lanes let hosts read disjoint blocks, and the order
   does not depend on how many hosts there are.
2. Rows are shuffled inside windows of w rows of their lane.
3. Lanes, laid end to end, are a line of positions cut in blocks of b samples; a pseudo-random
   permutation says which block of the data stands at which slot.
Each step is a bijection, so the composition is, and `inverse` undoes them one by one. Nothing
depends on numpy's random generators, whose streams may change between versions (NEP 19).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Words = NDArray[np.uint64]

ORDER_VERSION = 1
FULL_SORT = 2**16  # up to here a permutation is an explicit sort: exact, and quick to build
ROUNDS = 12


def mix(x: Words) -> Words:
    """A bijection of 64-bit words in which every input bit moves every output bit (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def words(key: bytes, count: int) -> Words:
    """`count` independent 64-bit words from a key."""
    digests = (hashlib.blake2b(i.to_bytes(8, "little"), key=key).digest() for i in range(count))
    return np.array([int.from_bytes(d[:8], "little") for d in digests], dtype=np.uint64)


def sub_key(key: bytes, purpose: str, *numbers: int) -> bytes:
    """A key for one purpose; epoch and the like are hashed in, never added to the seed."""
    message = purpose.encode() + b"".join(n.to_bytes(8, "little") for n in numbers)
    return hashlib.blake2b(message, key=key, digest_size=32).digest()


def hashes(key: bytes, size: int) -> Words:
    """Keyed hashes (size,) of the numbers 0..size-1; no two are equal."""
    first, second = words(key, 2)
    return mix(mix(np.arange(size, dtype=np.uint64) ^ first) + second)


def shuffled(key: bytes, size: int) -> Ids:
    """The numbers 0..size-1 in a keyed order: a sort by hash."""
    return np.argsort(hashes(key, size), kind="stable")


def groups(labels: Ids) -> Iterator[tuple[int, Ids]]:
    """Each different label of `labels` (B,) with the places (n,) where it stands, by one sort."""
    places = np.argsort(labels, kind="stable")
    ordered = labels[places]
    changes = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    bounds = [0, *changes.tolist(), len(labels)]
    for start, stop in pairwise(bounds):
        if start < stop:
            yield int(ordered[start]), places[start:stop]


class Permutation:
    """A keyed bijection of 0..size-1 and its inverse, on arrays.

    Up to FULL_SORT items an explicit sort. Above, an alternating Feistel network on the smallest
    power of two that holds `size`, walking the cycle until it is inside (under 2 walks expected).
    """

    def __init__(self, key: bytes, size: int) -> None:
        """`size` >= 1."""
        self.size = size
        self.table = shuffled(key, size) if size <= FULL_SORT else None
        if self.table is not None:
            self.inverse_table = np.empty_like(self.table)
            self.inverse_table[self.table] = np.arange(size)
            return
        bits = (size - 1).bit_length()
        self.low_bits = np.uint64(bits // 2)
        self.low_mask = np.uint64((1 << (bits // 2)) - 1)
        self.high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
        self.round_keys = words(key, ROUNDS)

    def __call__(self, x: Ids) -> Ids:
        """Images of `x`, any shape."""
        return self.table[x] if self.table is not None else self._walk(x, forward=True)

    def inverse(self, y: Ids) -> Ids:
        """The x whose image is `y`, any shape."""
        return self.inverse_table[y] if self.table is not None else self._walk(y, forward=False)

    def _walk(self, x: Ids, forward: bool) -> Ids:
        out = self._feistel(x.astype(np.uint64), forward)
        while (outside := out >= np.uint64(self.size)).any():
            out[outside] = self._feistel(out[outside], forward)
        return out.astype(np.int64)

    def _feistel(self, x: Words, forward: bool) -> Words:
        high, low = x >> self.low_bits, x & self.low_mask
        for turn in range(ROUNDS) if forward else reversed(range(ROUNDS)):
            if turn % 2:
                high = high ^ (mix(low ^ self.round_keys[turn]) & self.high_mask)
            else:
                low = low ^ (mix(high ^ self.round_keys[turn]) & self.low_mask)
        return (high << self.low_bits) | low


@dataclass(frozen=True)
class _Blocks:
    """The blocks of one epoch."""

    permutation: Permutation
    """From the slots of the line to the numbers of the blocks that stand there."""
    tail_slot: int
    """Where the last block of the data stands."""
    missing: int
    """Samples that it is short of."""


class Order:
    """Maps global positions to sample ids; a pure function of its arguments.

    Args:
        samples: N, samples in an epoch.
        seed: the user's seed.
        fingerprint: of the data set, so that two sets are never shuffled alike; in a mixture with
            the set's name, so that two names for the same content aren't either.
        block: samples that lie together on the disk and are fetched together.
        lanes: C, interleaved readers; a host that takes whole lanes reads each block once.
        window: rows of a lane that are shuffled together; a multiple of `block`, or the first
            samples of blocks come early more often than the last ones.
    The defaults, one sample a block, are a full shuffle of the epoch.
    """

    def __init__(
        self,
        samples: int,
        seed: int,
        fingerprint: str,
        block: int = 1,
        lanes: int = 1,
        window: int = 1,
    ) -> None:
        """Raises ValueError unless samples, block, lanes and window are at least 1."""
        for name, value in (("samples", samples), ("block", block), ("lanes", lanes)):
            if value < 1:
                raise ValueError(f"order: {name}={value} must be at least 1")
        if not 1 <= window <= 2**24:
            raise ValueError(f"order: window={window} must be from 1 to {2**24} rows")
        self.samples, self.block, self.lanes, self.window = samples, block, lanes, window
        identity = f"{ORDER_VERSION}\0{fingerprint}\0{seed}\0{samples}\0{block}\0{lanes}\0{window}"
        self.key = hashlib.blake2b(identity.encode(), digest_size=32).digest()
        # Windows of two epochs are alive while a batch straddles them.
        self._windows = lru_cache(maxsize=2)(self._empty_windows)
        self._blocks = lru_cache(maxsize=2)(self._make_blocks)

    def __call__(self, positions: Ids) -> Ids:
        """Sample ids (B,) at global positions (B,) >= 0, of any epochs."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise ValueError(f"order: position {positions.min()} is negative")
        epochs, indices = np.divmod(positions, self.samples)
        ids = np.empty_like(positions)
        for epoch, chosen in groups(epochs):
            ids[chosen] = self._block_order(epoch, self._lane_order(epoch, indices[chosen]))
        return ids

    def inverse(self, ids: Ids, epoch: int) -> Ids:
        """Local indices (B,), 0..samples-1, at which an epoch shows the samples `ids` (B,).

        The global position is epoch * samples + index. Costs O(window) an id when all lie in
        different windows.

        Raises:
            ValueError: an id is not one of the data set's, or the epoch is negative.
        """
        ids = np.asarray(ids, dtype=np.int64)
        if ids.size and not 0 <= ids.min() <= ids.max() < self.samples:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ValueError(f"order: sample {wrong} must be from 0 to {self.samples - 1}")
        if epoch < 0:
            raise ValueError(f"order: epoch {epoch} is negative")
        return self._lane_inverse(epoch, self._block_inverse(epoch, ids))

    def _lane_order(self, epoch: int, indices: Ids) -> Ids:
        """Steps 1 and 2: local indices (B,) to positions on the line of lanes (B,)."""
        rows, lanes = np.divmod(indices, self.lanes)
        if self.window > 1:
            windows, inside = np.divmod(rows, self.window)
            for window, chosen in groups(windows):  # one, or two at its end
                own = lanes[chosen]
                inside[chosen] = self._window(epoch, window, own)[own, inside[chosen]]
            rows = windows * self.window + inside
        return self._lane_starts(lanes) + rows

    def _lane_inverse(self, epoch: int, line: Ids) -> Ids:
        """Positions on the line of lanes (B,) to local indices (B,)."""
        whole, longer = divmod(self.samples, self.lanes)
        # The first `longer` lanes have one row more. Without whole rows there are no others.
        bound = longer * (whole + 1)
        lanes = np.where(
            line < bound, line // (whole + 1), longer + (line - bound) // max(whole, 1)
        )
        rows = line - self._lane_starts(lanes)
        if self.window > 1:
            windows, inside = np.divmod(rows, self.window)
            for pair, chosen in groups(windows * self.lanes + lanes):
                window, lane = divmod(pair, self.lanes)
                # A shuffled window puts x at the rank of its hash. Ids are scattered over
                # windows, so these are not worth a place in the cache.
                found = hashes(*self._window_key(epoch, lane, window))
                inside[chosen] = np.searchsorted(np.sort(found), found[inside[chosen]])
            rows = windows * self.window + inside
        return rows * self.lanes + lanes

    def _lane_starts(self, lanes: Ids) -> Ids:
        """Where lanes (B,) start on the line (B,)."""
        whole, longer = divmod(self.samples, self.lanes)
        starts: Ids = lanes * whole + np.minimum(lanes, longer)
        return starts

    def _window(self, epoch: int, window: int, lanes: Ids) -> Ids:
        """Shuffled rows (C, w) of a window of all lanes; filled for `lanes` (B,) at least."""
        table, made = self._windows(epoch, window)
        for lane in np.unique(lanes[~made[lanes]]).tolist():
            found = shuffled(*self._window_key(epoch, lane, window))
            table[lane, : len(found)] = found
            made[lane] = True
        return table

    def _empty_windows(self, epoch: int, window: int) -> tuple[Ids, NDArray[np.bool_]]:
        """A place for the windows of all lanes, and which are there: most hosts need few lanes."""
        table = np.empty((self.lanes, self.window), dtype=np.int64)
        return table, np.zeros(self.lanes, dtype=np.bool_)

    def _window_key(self, epoch: int, lane: int, window: int) -> tuple[bytes, int]:
        """Key and rows of a window; the last one of a lane may be shorter."""
        rows_in_lane = self.samples // self.lanes + (lane < self.samples % self.lanes)
        size = min(self.window, rows_in_lane - window * self.window)
        return sub_key(self.key, "window", epoch, lane, window), size

    def _block_order(self, epoch: int, line: Ids) -> Ids:
        """Step 3: positions on the line (B,) to sample ids (B,)."""
        blocks = self._blocks(epoch)
        # The short block may stand at any slot; what stands behind it is shifted by `missing`.
        tail_end = (blocks.tail_slot + 1) * self.block - blocks.missing
        shifted = np.where(line < tail_end, line, line + blocks.missing)
        slots, offsets = np.divmod(shifted, self.block)
        return blocks.permutation(slots) * self.block + offsets

    def _block_inverse(self, epoch: int, ids: Ids) -> Ids:
        """Sample ids (B,) to positions on the line (B,)."""
        blocks = self._blocks(epoch)
        numbers, offsets = np.divmod(ids, self.block)
        slots = blocks.permutation.inverse(numbers)
        line: Ids = slots * self.block + offsets
        return line - np.where(slots > blocks.tail_slot, blocks.missing, 0)

    def _make_blocks(self, epoch: int) -> _Blocks:
        count = -(-self.samples // self.block)
        permutation = Permutation(sub_key(self.key, "blocks", epoch), count)
        last = np.array([count - 1], dtype=np.int64)
        missing = count * self.block - self.samples
        return _Blocks(permutation, int(permutation.inverse(last)[0]), missing)
