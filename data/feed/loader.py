"""Batches of tokens for training and evaluation, a pure function of a cursor.

Resuming is calling `stream` with a later cursor; a loader has no state. The stream of a split is
one end of text and then the tokens of its shards, so that the first token is predicted too.
"""

import itertools
import queue
import threading
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.feed.stream import Samples, Stream
from data.files import DataError
from data.packing import document_ids
from data.shards import ShardSet

PREFETCH_STEPS = 4  # whose blocks are on their way while a step is put together


@dataclass(frozen=True)
class Batch:
    """One micro-batch: B sequences of T targets."""

    tokens: NDArray[np.int64]
    """(B, T+1): inputs are [:, :-1], targets [:, 1:]."""
    loss_mask: NDArray[np.bool_]
    """(B, T): True where the target counts."""
    sample_ids: NDArray[np.int64]
    """(B,): number of each sequence since the start of the run; in evaluation, its row."""
    documents: NDArray[np.int32] | None = None
    """(B, T): tokens see only those of the same number. None: all tokens before them."""
    samples: Samples | None = None
    """Where each sequence comes from. None in evaluation."""
    readable: NDArray[np.bool_] | None = None
    """(B,): False where stored tokens were damaged and skipped. None in evaluation."""

    @property
    def weight(self) -> int:
        """Targets that count."""
        return int(self.loss_mask.sum())


class Loader:
    """Training batches of sequences of one length."""

    def __init__(
        self, stream: Stream, sequence_length: int, *, isolate_documents: bool = False
    ) -> None:
        """Raises DataError unless `sequence_length` divides the stream's rows."""
        if sequence_length < 1 or stream.row_tokens % sequence_length:
            raise DataError(
                f"data.sequence_length={sequence_length} must divide "
                f"data.row_tokens={stream.row_tokens}"
            )
        self.source, self.sequence_length = stream, sequence_length
        self._isolate = isolate_documents

    def batch(self, cursors: NDArray[np.int64]) -> Batch:
        """The sequences at cursors (B,), in tokens since the start of the run.

        Raises:
            BadBlock: stored tokens are damaged, and skipping was not asked for.
        """
        return self._read(cursors, self.source.samples(cursors, self.sequence_length))

    def _read(self, cursors: NDArray[np.int64], samples: Samples) -> Batch:
        T = self.sequence_length
        tokens, mask, readable = self.source.read(samples, T)
        documents = None
        if self._isolate:
            documents = document_ids(tokens[:, :-1], self.source.end_of_text)
        return Batch(tokens, mask, cursors // T, documents, samples, readable)

    def stream(
        self,
        cursor: int,
        global_batch: int,
        micro_batch: int,
        rank: int,
        world_size: int,
        prefetch: int = 2,
    ) -> Generator[list[Batch], None, None]:
        """Without end, one item per optimizer step: this rank's micro-batches of that step.

        A step covers the next global_batch sequences and the next step goes on from there; steps
        straddle epochs. Group g of G holds sequences g, g + G, ...: a fixed residue, so that a
        group stays in few lanes and hosts read few blocks in common. Group g goes to rank
        g % world_size, so the groups don't depend on the number of ranks.

        Args:
            cursor: tokens consumed before the first step.
            global_batch: sequences per step over all ranks.
            micro_batch: sequences per group.
            prefetch: steps a thread reads ahead; 0 reads in the caller's thread. Closing the
                iterator ends the thread.

        Raises:
            ValueError: global_batch is not a multiple of micro_batch x world_size, or the cursor
                is not one of the sequence length.
        """
        unit = micro_batch * world_size
        if micro_batch < 1 or not 0 <= rank < world_size or prefetch < 0:
            raise ValueError(
                f"loader: need micro_batch={micro_batch} >= 1, "
                f"0 <= rank={rank} < world_size={world_size}, prefetch={prefetch} >= 0"
            )
        if cursor < 0 or cursor % self.sequence_length:
            raise ValueError(
                f"loader: cursor={cursor} must be a multiple of "
                f"data.sequence_length={self.sequence_length}, from 0 on"
            )
        if global_batch < 1 or global_batch % unit:
            lower = global_batch // unit * unit
            nearest = f"{lower}, {lower + unit}" if lower else f"{unit}"
            raise ValueError(
                f"global_batch_size={global_batch} must be a multiple of micro_batch_size x "
                f"world_size = {micro_batch} x {world_size} = {unit}; nearest: {nearest}"
            )
        steps = self._steps(cursor, global_batch, micro_batch, rank, world_size)
        return read_ahead(steps, prefetch) if prefetch else steps

    def _steps(
        self, cursor: int, global_batch: int, micro_batch: int, rank: int, world_size: int
    ) -> Generator[list[Batch], None, None]:
        T = self.sequence_length
        ahead: deque[list[tuple[NDArray[np.int64], Samples]]] = deque()
        for depth in itertools.count():  # the first step waits for no other
            most = min(depth, PREFETCH_STEPS)
            while len(ahead) <= most:
                steps = max(most, 1)  # looked up together: numpy costs per call, not per sample
                groups = np.arange(steps * global_batch).reshape(steps, micro_batch, -1)
                own = cursor + T * groups.transpose(0, 2, 1)[:, rank::world_size].reshape(-1)
                samples = self.source.samples(own, T)
                self.source.prefetch(samples)
                for step in np.split(np.arange(len(own)), steps):
                    parts = [slice(at, at + micro_batch) for at in step[::micro_batch].tolist()]
                    ahead.append([(own[part], samples[part]) for part in parts])
                cursor += T * global_batch * steps
            yield [self._read(*own) for own in ahead.popleft()]


def read_ahead(items: Iterator[list[Batch]], depth: int) -> Generator[list[Batch], None, None]:
    """The same items, made `depth` ahead by a thread that ends when this iterator is closed.

    An exception of the thread is raised here, in its turn.
    """
    ready: queue.SimpleQueue[list[Batch] | BaseException | None] = queue.SimpleQueue()
    wanted: queue.SimpleQueue[None] = queue.SimpleQueue()  # one for each item that may be made
    closed = threading.Event()

    def work() -> None:
        try:
            for item in items:
                ready.put(item)
                wanted.get()
                if closed.is_set():
                    return
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    for _ in range(depth):
        wanted.put(None)
    thread = threading.Thread(target=work, name="read-ahead", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            wanted.put(None)
            yield item
    finally:
        closed.set()
        wanted.put(None)
        thread.join()


def evaluation_rows(
    shards: ShardSet,
    sequence_length: int,
    rank: int,
    world_size: int,
    micro_batch: int,
    *,
    isolate_documents: bool = False,
) -> Iterator[Batch]:
    """Every token of the split as a target exactly once over all ranks, in order.

    All ranks get the same number of batches of the same shape (B, T+1), so that collectives
    can't hang: what is missing at the end is end of text with a False mask, and its sample ids are
    beyond the last row.
    """
    T, end_of_text = sequence_length, shards.manifest.end_of_text
    samples = -(-shards.tokens // T)
    turns = -(-samples // (micro_batch * world_size))
    for turn in range(turns):
        first = (turn * world_size + rank) * micro_batch
        tokens = np.full((micro_batch, T + 1), end_of_text, dtype=np.int64)
        mask = np.zeros((micro_batch, T), dtype=np.bool_)
        for i, sample in enumerate(range(first, min(first + micro_batch, samples))):
            start, stop = max(0, sample * T - 1), min((sample + 1) * T, shards.tokens)
            own = shards.read(start, stop)  # behind the context, or what opens the stream
            at = 0 if sample else 1
            tokens[i, at : at + len(own)] = own
            mask[i, : stop - sample * T] = True
        documents = document_ids(tokens[:, :-1], end_of_text) if isolate_documents else None
        yield Batch(tokens, mask, np.arange(first, first + micro_batch), documents)
