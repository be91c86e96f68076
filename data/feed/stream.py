"""What a job trains on: an endless stream of rows, a pure function of content, seed and schedule.

A cursor counts tokens since the start of the run. Row number cursor // R of the run is drawn from
a dataset by the mixture, which dataset row it is by the order of that dataset and epoch, and its
tokens by the packing. A sequence of L tokens is one of the R / L parts of a row. Nothing here
depends on the number of workers, and nothing is remembered but damaged blocks.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.config import DataConfig
from data.files import DataError, cache_root
from data.order import Ids, Order, Words
from data.order.mixture import Mixture, Phase
from data.order.multiset import Multiset, expected_multiset
from data.order.state import Exclusion
from data.packing import Rows
from data.packing import rows as rows_of
from data.shards import BLOCK_BYTES, CACHE_BLOCKS, BadBlock, ShardSet

LANES = 64


@dataclass(frozen=True)
class Samples:
    """Where sequences come from; each field (B,)."""

    dataset: Ids
    """Number of the dataset in `Stream.names`."""
    epoch: Ids
    row: Ids
    """Row of the dataset."""
    part: Ids
    """Which of the row's sequences."""

    def __getitem__(self, chosen: slice) -> "Samples":
        """Some of them."""
        return Samples(
            self.dataset[chosen], self.epoch[chosen], self.row[chosen], self.part[chosen]
        )


@dataclass(frozen=True)
class Damage:
    """Tokens that were skipped because they can't be read as they were written."""

    dataset: str
    start: int
    """First token, in the stream of the dataset's shards."""
    stop: int


class Stream:
    """The rows of a job. Build it with `open`.

    Attributes:
        names: of the datasets.
        rows: of each dataset.
        mixture: which row of which dataset stands at a position.
        row_tokens: R.
        end_of_text: the token between documents.
        fingerprints: of the rows of each dataset, in the order of the names.
        damage: what was skipped so far by this process.
    """

    def __init__(
        self,
        rows: Mapping[str, Rows],
        phases: list[Phase],
        seed: int,
        *,
        skip_bad_blocks: bool = False,
    ) -> None:
        """`rows` of all datasets have the same length."""
        self.rows = dict(rows)
        orders = {name: order(name, own, seed) for name, own in self.rows.items()}
        self.mixture = Mixture(orders, phases, seed)
        self.names = self.mixture.names
        self.fingerprints = {name: own.fingerprint for name, own in self.rows.items()}
        self.row_tokens = next(iter(self.rows.values())).row_tokens
        self.end_of_text = next(iter(self.rows.values())).shards.manifest.end_of_text
        self.damage: list[Damage] = []
        self._skip = skip_bad_blocks

    @staticmethod
    def open(train: Mapping[str, ShardSet], config: DataConfig) -> "Stream":
        """The stream of a job's train splits.

        Raises:
            DataError: a dataset is shorter than a row, or the schedule names one that is not there.
        """
        plans = cache_root() / "data" / "plans"
        own = {name: _rows(name, shards, config, plans) for name, shards in train.items()}
        phases = [Phase(start, dict(weights)) for start, weights in config.weights()]
        skip = config.on_bad_block == "skip"
        return Stream(own, phases, config.seed, skip_bad_blocks=skip)

    def samples(self, cursors: Ids, length: int) -> Samples:
        """Where the sequences of `length` tokens at cursors (B,), multiples of it, come from."""
        positions, inside = np.divmod(cursors, self.row_tokens)
        draw = self.mixture(positions)
        return Samples(draw.dataset, draw.epoch, draw.row, inside // length)

    def read(
        self, samples: Samples, length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Tokens (B, length + 1), loss mask (B, length), and which sequences could be read (B,).

        Raises:
            BadBlock: tokens are damaged, and skipping was not asked for.
        """
        B, parts = len(samples.row), self.row_tokens // length
        if parts == 1 and len(self.names) == 1:
            return self._read(self.names[0], samples.row)
        tokens = np.empty((B, length + 1), dtype=np.int64)
        mask = np.empty((B, length), dtype=np.bool_)
        good = np.ones(B, dtype=np.bool_)
        for number, name in enumerate(self.names):
            chosen = np.flatnonzero(samples.dataset == number)
            if not len(chosen):
                continue
            whole, valid, fine = self._read(name, samples.row[chosen])
            good[chosen] = fine
            if parts == 1:
                tokens[chosen], mask[chosen] = whole, valid
                continue
            columns = samples.part[chosen, None] * length + np.arange(length + 1)
            tokens[chosen] = np.take_along_axis(whole, columns, 1)
            mask[chosen] = np.take_along_axis(valid, columns[:, :-1], 1)
        return tokens, mask, good

    def prefetch(self, samples: Samples) -> None:
        """Begin to read sequences that are wanted soon; returns before they are there."""
        for number, name in enumerate(self.names):
            if len(rows := samples.row[samples.dataset == number]):
                self.rows[name].prefetch(rows)

    def expected(self, keys: Words, stop: int) -> Multiset:
        """The multiset of all sequences before a cursor; keys (D, 6) are those of the datasets."""
        return expected_multiset(self.mixture, keys, self.row_tokens, 0, stop)

    def exclude(self, exclusions: Iterable[Exclusion]) -> None:
        """Skip these tokens from now on, also where they can be read again."""
        for own in exclusions:
            self.damage.append(Damage(own.dataset, own.start, own.stop))

    def _read(
        self, name: str, wanted: Ids
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Rows of one dataset; with skipping, damaged ones are end of text and masked."""
        own = self.rows[name]
        good = ~self._excluded(name, wanted)
        try:
            if good.all():
                return *own.read(wanted), good
        except BadBlock:
            if not self._skip:
                raise
        tokens = np.full((len(wanted), self.row_tokens + 1), self.end_of_text)
        mask = np.zeros((len(wanted), self.row_tokens), dtype=np.bool_)
        for i in np.flatnonzero(good).tolist():
            try:
                tokens[i : i + 1], mask[i : i + 1] = own.read(wanted[i : i + 1])
            except BadBlock as error:
                good[i] = False
                found = Damage(name, error.start, error.stop)
                if found not in self.damage:
                    self.damage.append(found)
        return tokens, mask, good

    def _excluded(self, name: str, wanted: Ids) -> NDArray[np.bool_]:
        """Which rows (B,) of a dataset have targets among the tokens that are skipped."""
        found = np.zeros(len(wanted), dtype=np.bool_)
        own, ranges = self.rows[name], [d for d in self.damage if d.dataset == name]
        for i, row in enumerate(wanted.tolist()) if ranges else ():
            for segment in own.segments(row):
                start = int(own.shards.offsets[segment.document]) + segment.offset
                found[i] |= any(start < d.stop and d.start < start + segment.length for d in ranges)
        return found


def order(name: str, own: Rows, seed: int) -> Order:
    """The order of a dataset: a full shuffle of what fits in the block cache, else windows.

    A full shuffle of more would read a block of 1 MiB for each row of it. Windows of all lanes
    together touch half of the cache.
    """
    key = f"{name}\0{own.fingerprint}"
    if own.shards.tokens * own.shards.dtype.itemsize <= CACHE_BLOCKS * BLOCK_BYTES // 2:
        return Order(own.count, seed, key)
    block = own.rows_per_block
    window = max(1, block * (CACHE_BLOCKS // 2) // LANES)
    return Order(own.count, seed, key, block=block, lanes=LANES, window=window)


def _rows(name: str, shards: ShardSet, config: DataConfig, plans: Path) -> Rows:
    length = config.row_length
    if shards.tokens < length and config.packing == "chunked":
        setting = "data.row_tokens" if config.row_tokens else "data.sequence_length"
        raise DataError(
            f"{setting}={length} is longer than the train split of dataset {name}, "
            f"{shards.tokens:,} tokens; try {setting}={shards.tokens} or less, or bring more text"
        )
    return rows_of(shards, config.packing, length, plans)
