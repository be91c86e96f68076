"""Rows of tokens for training and evaluation, a pure function of a position.

The stream of a split is one end of text and then the tokens of its shards, so that the first
token is predicted too. Row i at sequence length T is stream[i*T : i*T + T + 1]: its T targets are
tokens i*T .. i*T + T of the shards, and no token is a target twice.
Resuming is calling `stream` with a later position; there is no state.
"""

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.files import DataError
from data.order import Order
from data.shards import BLOCK_BYTES, CACHE_BLOCKS, ShardSet

LANES = 64


@dataclass(frozen=True)
class Batch:
    """One micro-batch: B rows of T targets."""

    tokens: NDArray[np.int64]
    """(B, T+1): inputs are [:, :-1], targets [:, 1:]."""
    loss_mask: NDArray[np.bool_]
    """(B, T): True where the target counts."""
    sample_ids: NDArray[np.int64]
    """(B,): which row of the split each one is."""
    position: int
    """Global position of the first row, in samples since the start of the run."""


def _fill(shards: ShardSet, start: int, row: NDArray[np.int64]) -> int:
    """Fill a row (T+1,) with the stream from position `start`; returns how many it got."""
    stop = min(start + len(row), shards.tokens + 1)
    if start == 0:
        row[0] = shards.manifest.end_of_text
        row[1:stop] = shards.read(0, stop - 1)
    else:
        row[: stop - start] = shards.read(start - 1, stop - 1)
    return stop - start


class Loader:
    """Training rows of one split.

    Attributes:
        samples: whole rows in an epoch.
        dropped_tokens: tokens after the last whole row; they are never trained on.
    """

    def __init__(self, shards: ShardSet, sequence_length: int, seed: int) -> None:
        """Raises DataError when not even one row fits."""
        if sequence_length < 1:
            raise DataError(f"data.sequence_length={sequence_length} must be at least 1 token")
        self.samples, self.dropped_tokens = divmod(shards.tokens, sequence_length)
        if not self.samples:
            raise DataError(
                f"data.sequence_length={sequence_length} is longer than the corpus: "
                f"{shards.manifest.name} has {shards.tokens} tokens; set data.sequence_length="
                f"{shards.tokens} or less, or bring more text"
            )
        self.shards, self.sequence_length = shards, sequence_length
        self.order = Order(self.samples, seed, shards.fingerprint, **self._blocks())

    def _blocks(self) -> dict[str, int]:
        """Full shuffle of what fits in the block cache; blocks in windows of what doesn't.

        A full shuffle of more would read a block of 1 MiB for each row of it.
        """
        item = self.shards.dtype.itemsize
        if self.shards.tokens * item <= CACHE_BLOCKS * BLOCK_BYTES // 2:
            return {"block": 1, "lanes": 1, "window": 1}
        block = max(1, BLOCK_BYTES // (self.sequence_length * item))
        # Windows of all lanes together touch half of the cache.
        window = max(1, block * (CACHE_BLOCKS // 2) // LANES)
        return {"block": block, "lanes": LANES, "window": window}

    def rows(self, positions: NDArray[np.int64]) -> Batch:
        """The rows at global positions (B,), of any epochs."""
        ids = self.order(positions)
        T = self.sequence_length
        tokens = np.empty((len(ids), T + 1), dtype=np.int64)
        for row, sample in zip(tokens, ids.tolist(), strict=True):
            _fill(self.shards, sample * T, row)
        mask = np.ones((len(ids), T), dtype=np.bool_)
        return Batch(tokens, mask, ids, int(positions[0]))

    def stream(
        self,
        position: int,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        prefetch: int = 2,
    ) -> Generator[list[Batch], None, None]:
        """Without end, one item per optimizer step: this rank's micro-batches of that step.

        A step covers positions [position, position + global_batch) and the next one goes on from
        there; batches straddle epochs. The step is cut into groups of `micro_batch` rows and group
        k goes to rank k % world_size, so the groups don't depend on the number of ranks.

        Args:
            position: samples consumed before the first step.
            global_batch: sequences per step over all ranks.
            micro_batch: sequences per group.
            rank: this rank.
            world_size: number of ranks.
            prefetch: steps a thread reads ahead; 0 reads in the caller's thread. Closing the
                iterator ends the thread.

        Raises:
            ValueError: global_batch is not a multiple of micro_batch x world_size.
        """
        unit = micro_batch * world_size
        if position < 0 or micro_batch < 1 or not 0 <= rank < world_size or prefetch < 0:
            raise ValueError(
                f"loader: need position={position} >= 0, micro_batch={micro_batch} >= 1, "
                f"0 <= rank={rank} < world_size={world_size}, prefetch={prefetch} >= 0"
            )
        if global_batch < 1 or global_batch % unit:
            lower = global_batch // unit * unit
            nearest = f"{lower}, {lower + unit}" if lower else f"{unit}"
            raise ValueError(
                f"global_batch_size={global_batch} must be a multiple of micro_batch_size x "
                f"world_size = {micro_batch} x {world_size} = {unit}; nearest: {nearest}"
            )
        steps = self._steps(position, global_batch, micro_batch, rank, world_size)
        return read_ahead(steps, prefetch) if prefetch else steps

    def _steps(
        self, position: int, global_batch: int, micro_batch: int, rank: int, world_size: int
    ) -> Generator[list[Batch], None, None]:
        while True:
            groups = np.arange(position, position + global_batch).reshape(-1, micro_batch)
            yield [self.rows(group) for group in groups[rank::world_size]]
            position += global_batch


def read_ahead(items: Iterator[list[Batch]], depth: int) -> Generator[list[Batch], None, None]:
    """The same items, made `depth` ahead by a thread that ends when this iterator is closed.

    An exception of the thread is raised here, in its turn.
    """
    ready: queue.Queue[list[Batch] | BaseException | None] = queue.Queue(maxsize=depth)
    closed = threading.Event()

    def put(item: list[Batch] | BaseException | None) -> None:
        while not closed.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for item in items:
                put(item)
                if closed.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.set()
        thread.join()


def evaluation_rows(
    shards: ShardSet, sequence_length: int, rank: int, world_size: int, micro_batch: int
) -> Iterator[Batch]:
    """Every token of the split as a target exactly once over all ranks, in order.

    All ranks get the same number of batches of the same shape (B, T+1), so that collectives
    can't hang: what is missing at the end is end of text with a False mask, and its sample ids are
    beyond the last row.
    """
    T = sequence_length
    samples = -(-shards.tokens // T)
    turns = -(-samples // (micro_batch * world_size))
    for turn in range(turns):
        first = (turn * world_size + rank) * micro_batch
        ids = np.arange(first, first + micro_batch)
        tokens = np.full((micro_batch, T + 1), shards.manifest.end_of_text, dtype=np.int64)
        mask = np.zeros((micro_batch, T), dtype=np.bool_)
        for i, sample in enumerate(ids.tolist()):
            if sample < samples:
                got = _fill(shards, sample * T, tokens[i])
                mask[i, : got - 1] = True
        yield Batch(tokens, mask, ids, first)
