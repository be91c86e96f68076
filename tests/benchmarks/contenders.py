"""What loader.py compares: what a contender can do, and ours and np.memmap as the first two.

All get the same windows of random tokens. A window begins with its number in two tokens and ends
with end of text, so that whoever reads it says which one it is. The windows of the libraries have
T + 1 tokens; ours have T, because our rows share one token with their neighbour. Every contender
gives int64 arrays (B, T + 1), copied out of its storage; a collate function written here does it
in one step for the libraries, which is faster than their own ones.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

T = 1024
END_OF_TEXT, MAX_ID = 0, 50_256
NUMBER_BASE = 1 << 15
CHUNK = 4096  # windows made at a time
FILE_BYTES = 1 << 26  # of a shard or chunk: mosaicml's and litdata's own default
SEED = 7

Tokens = NDArray[np.int64]


class NoMechanism(Exception):
    """The contender documents no way to do this."""


@dataclass
class Feed:
    """One reading of a dataset."""

    batches: Iterator[Tokens]
    """(B, T+1) each."""
    state: Callable[[], Any]
    """What the contender would save now; JSON-able."""


@dataclass(frozen=True)
class How:
    """How a dataset is read."""

    workers: int = 0
    """Processes or threads that read ahead."""
    state: Any = None
    """Where to go on; None: at the beginning."""
    rank: int = 0
    world: int = 1
    endless: bool = True
    """Go on with the next epoch."""


ALONE = How()


def windows(count: int, width: int) -> Iterator[NDArray[np.uint16]]:
    """Chunks (<= CHUNK, width) of `count` numbered windows; the same in every process."""
    for first in range(0, count, CHUNK):
        random = np.random.Generator(np.random.Philox(key=[SEED, first]))
        chunk = random.integers(1, MAX_ID, (min(CHUNK, count - first), width), dtype=np.uint16)
        numbers = np.arange(first, first + len(chunk))
        chunk[:, 0] = 1 + numbers % NUMBER_BASE
        chunk[:, 1] = 1 + numbers // NUMBER_BASE
        chunk[:, -1] = END_OF_TEXT
        yield chunk


class Contender:
    """Interface and defaults."""

    name: str
    stored: str  # sets of the same form are written once
    package: str | None = None  # that must be importable
    setting: str  # what is used in one process
    ahead: str | None  # what is used with one worker
    number_at = 0  # column of a batch where the window's number begins

    def write(self, folder: Path, count: int, file_bytes: int = FILE_BYTES) -> None:
        """Make a set of `count` windows in files of about `file_bytes`."""
        raise NotImplementedError

    def open(self, folder: Path, batch: int, how: How = ALONE) -> Feed:
        """Batches of `batch` rows for this rank."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Import what is needed, so that it is not timed."""

    def tidy(self) -> None:
        """Remove what killed readers left in the shared memory."""

    def state_at(self, folder: Path, batch: int, count: int, batches: int) -> Any:
        """The state after so many batches; by default by reading that far."""
        feed = self.open(folder, batch, How(endless=False))
        for _ in itertools.islice(feed.batches, batches):
            pass
        return feed.state()

    def numbers(self, batch: Tokens) -> Tokens:
        """Which windows a batch holds, (B,)."""
        batch = np.asarray(batch)
        low, high = batch[:, self.number_at], batch[:, self.number_at + 1]
        return low - 1 + (high - 1) * NUMBER_BASE


class Ours(Contender):
    """This project, a local set: read once, then copied out of a mapping."""

    name = stored = "ours"
    setting = "prefetch=0, all in the caller's thread"
    ahead = "prefetch=2: one thread"
    number_at = 1
    mapped_bytes: int | None = None  # the largest set that is mapped; None: a part of the memory

    def prepare(self) -> None:
        import data.feed.loader
        import data.order.state
        import data.shards.writer  # noqa: F401

    def write(self, folder: Path, count: int, file_bytes: int = FILE_BYTES) -> None:
        from data.shards import Tokenized
        from tests.data.writing import write_shards

        documents = (
            Tokenized(ids.ravel(), bytes(16), f"made:{number}", 4 * ids.size)
            for number, chunk in enumerate(windows(count, T))
            for ids in np.array_split(chunk, -(-len(chunk) // 16))
        )
        write_shards(
            folder, documents, max_id=MAX_ID, end_of_text=END_OF_TEXT, name="train",
            records="text", tokenizer="none", settings={"seed": SEED},
            shard_tokens=file_bytes // 2,
        )  # fmt: skip

    def loader(self, folder: Path) -> Any:
        """Of a set that `write` made."""
        from data.config import SINGLE, DataConfig
        from data.feed.loader import Loader
        from data.feed.stream import Stream
        from data.shards import ShardSet

        shards = ShardSet.open(folder, mapped_bytes=self.mapped_bytes)
        config = DataConfig(sequence_length=T, seed=SEED)
        return Loader(Stream.open({SINGLE: shards}, config), T)

    def open(self, folder: Path, batch: int, how: How = ALONE) -> Feed:
        from data.config import SINGLE
        from data.order.state import DataState

        loader, size = self.loader(folder), batch * how.world
        cursor = 0 if how.state is None else DataState.from_dict(how.state).cursor
        micro = batch if how.world == 1 else 8
        ahead = 2 if how.workers else 0
        steps = loader.stream(cursor, size, micro, how.rank, how.world, prefetch=ahead)
        left = loader.source.rows[SINGLE].count - cursor // T
        reached = [0]

        def batches() -> Iterator[Tokens]:
            for step in itertools.islice(steps, None if how.endless else left // size):
                reached[0] += 1
                parts = [part.tokens for part in step]
                yield parts[0] if len(parts) == 1 else np.concatenate(parts)

        return Feed(batches(), lambda: self.state(loader, size, cursor // T // size + reached[0]))

    def state(self, loader: Any, size: int, steps: int) -> Any:
        """What a checkpoint holds after so many steps (here without the sum of the windows)."""
        from data.order.multiset import Multiset
        from data.order.state import DataState

        stream = loader.source
        prints = {name: rows.fingerprint for name, rows in stream.rows.items()}
        begin = DataState.begin(
            stream.mixture, prints, row_tokens=T, packing="chunked", global_batch_size=size,
            sequence_length=T,
        )  # fmt: skip
        return begin.advanced(steps, Multiset()).to_dict()

    def state_at(self, folder: Path, batch: int, count: int, batches: int) -> Any:
        return self.state(self.loader(folder), batch, batches)


class OursBuffered(Ours):
    """The same as a set that is not local or larger than the memory is read: block cache, pread."""

    name = "ours buffered"
    mapped_bytes = 0


class Memmap(Contender):
    """nanoGPT's get_batch: windows at random places; no epochs and nothing to resume."""

    name = stored = "np.memmap"
    setting = "random windows of one file: loop of slices, astype int64, stack"
    ahead = None

    def write(self, folder: Path, count: int, file_bytes: int = FILE_BYTES) -> None:
        with (folder / "tokens.bin").open("wb") as file:
            for chunk in windows(count, T + 1):
                file.write(chunk.tobytes())

    def open(self, folder: Path, batch: int, how: How = ALONE) -> Feed:
        if how.state is not None or not how.endless:
            raise NoMechanism("draws with replacement: no epochs, and no state")
        tokens = np.memmap(folder / "tokens.bin", dtype=np.uint16, mode="r")
        random = np.random.default_rng(SEED)

        def batches() -> Iterator[Tokens]:
            while True:
                starts = random.integers(0, len(tokens) - T, batch).tolist()
                yield np.stack([tokens[i : i + T + 1].astype(np.int64) for i in starts])

        return Feed(batches(), dict)

    def state_at(self, folder: Path, batch: int, count: int, batches: int) -> Any:
        raise NoMechanism("draws with replacement: no epochs, and no state")


def state_bytes(state: Any) -> int:
    """What a state takes as JSON."""
    return len(json.dumps(state, default=lambda value: value.tolist()))
