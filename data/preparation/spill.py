"""Tokenized documents on their way from the units of input to the shards of the output.

A map task writes the documents of its unit into one Arrow file, sorted by a hash of their content;
a shard is a range of these hashes, read from the files of all units. So a shard holds documents of
everywhere, whatever the order of the source was, equal ones meet in one shard, and neither the
workers nor the order of the units show in the result.

The hash is the second half of the record's digest: 64 bits as random as a keyed hash would be, and
independent of the first half, which decides the split. A file holds parts of bounded size, each as
two record batches: documents of the validation split, then of train.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.filters.report import FilterCount
from data.filters.rules import EXCERPT, excerpt
from data.preparation.encoding import Encoded, Ids, record_digest
from data.records import Record
from data.shards import Tokenized

EQUAL = "equal to an earlier record"
SPLITS = ("validation", "train")
BIN_BITS = 12
BINS = 1 << BIN_BITS  # of the hash, in the histogram; a split has at most so many shards
PART_TOKENS = 1 << 23  # 32 MiB of uint32; four times that while a part is sorted
PART_DOCUMENTS = 1 << 17  # a document is some 500 bytes besides its tokens

Histogram = NDArray[np.int64]  # (2 splits, 2: documents and tokens, BINS)
Decode = Callable[[list[int]], str]


def in_validation(first: NDArray[np.uint64], limit: int) -> NDArray[np.bool_]:
    """Whether records of these first halves are below the limit, from 0 to 2^64: (N,)."""
    return first <= np.uint64(limit - 1) if limit else np.zeros(len(first), np.bool_)


def schema(dtype: np.dtype[Any]) -> Any:
    """Columns of a spilled file; `dtype` is that of token ids."""
    import pyarrow as pa

    return pa.schema(
        {
            "key": pa.uint64(),
            "first": pa.uint64(),  # half of the record's digest; key is the other
            "row": pa.int64(),
            "text": pa.int64(),  # number of the text in its record
            "digest": pa.binary(16),
            "place": pa.large_string(),
            "text_bytes": pa.int64(),
            "spans": pa.large_list(pa.int64()),  # start, stop, start, stop ...
            "ids": pa.large_list({2: pa.uint16(), 4: pa.uint32()}[dtype.itemsize]),
        }
    )


@dataclass
class SpillWriter:
    """Collects the documents of one unit and writes them part by part."""

    path: Path
    dtype: np.dtype[Any]
    """Of token ids."""
    limit: int
    """A record is in validation when the first half of its digest is below it."""
    repeats: FilterCount
    """Counts records that are left out because an equal one came before in the same part."""
    decode: Decode
    """Text of token ids, for the examples of these."""
    histogram: Histogram = field(default_factory=lambda: np.zeros((2, 2, BINS), np.int64))
    lowest: bytes | None = None
    highest: bytes | None = None
    """Of the records' digests."""

    def __post_init__(self) -> None:
        """Open the file."""
        import pyarrow as pa

        self._schema = schema(self.dtype)
        self._sink = pa.OSFile(str(self.path), "wb")
        self._file = pa.ipc.new_file(self._sink, self._schema)
        self._waiting: list[tuple[Sequence[tuple[int, Record]], Encoded]] = []
        self._tokens = self._documents = 0

    def add(self, batch: Sequence[tuple[int, Record]], encoded: Encoded) -> None:
        """Take the documents of a batch of (row in the unit, record)."""
        # Only the places of the records are needed from here on, not their texts.
        slim = [(row, Record(("",) * len(r.texts), r.place)) for row, r in batch]
        self._waiting.append((slim, encoded))
        self._tokens += len(encoded.ids)
        self._documents += len(encoded.digests)
        if self._tokens >= PART_TOKENS or self._documents >= PART_DOCUMENTS:
            self._write_part()

    def close(self) -> None:
        """Write what is left and the end of the file."""
        if self._waiting:
            self._write_part()
        self._file.close()
        self._sink.close()

    def _write_part(self) -> None:
        import pyarrow as pa

        part = _part(self._waiting, self._schema)
        self._waiting, self._tokens, self._documents = [], 0, 0
        kept, left_out = distinct(part)
        count_repeats(self.repeats, part, left_out, self.decode)
        first, key = _numpy(part, "first"), _numpy(part, "key")
        lengths = np.diff(part.column("ids").offsets.to_numpy())
        self._note_extremes(first, key)
        below = in_validation(first[kept], self.limit)
        for split, mine in enumerate((kept[below], kept[~below])):
            bins = (key[mine] >> np.uint64(64 - BIN_BITS)).astype(np.int64)
            self.histogram[split, 0] += np.bincount(bins, minlength=BINS)
            tokens = np.bincount(bins, lengths[mine], minlength=BINS)
            self.histogram[split, 1] += tokens.astype(np.int64)
            self._file.write_batch(part.take(pa.array(mine)))

    def _note_extremes(self, first: NDArray[np.uint64], key: NDArray[np.uint64]) -> None:
        order = np.lexsort((key, first))
        low, high = (
            int(first[i]).to_bytes(8, "big") + int(key[i]).to_bytes(8, "big")
            for i in (order[0], order[-1])
        )
        self.lowest = low if self.lowest is None else min(self.lowest, low)
        self.highest = high if self.highest is None else max(self.highest, high)


def _part(waiting: Sequence[tuple[Sequence[tuple[int, Record]], Encoded]], schema: Any) -> Any:
    """The record batch of some batches of records, unsorted."""
    import pyarrow as pa

    digests: list[bytes] = []
    rows: list[int] = []
    texts: list[int] = []
    places: list[str] = []
    spans: list[list[int]] = []
    for batch, encoded in waiting:
        number = 0
        for row, record in batch:
            count = len(record.texts)
            digests += [record_digest(encoded.digests[number : number + count])] * count
            rows += [row] * count
            texts += range(count)
            places += [record.place] * count
            number += count
        spans += [[edge for span in own for edge in span] for own in encoded.spans]
    first, key = np.frombuffer(b"".join(digests), ">u8").astype(np.uint64).reshape(-1, 2).T
    lengths = np.concatenate([np.diff(encoded.ends) for _, encoded in waiting])
    ids = np.concatenate([encoded.ids for _, encoded in waiting])
    columns = {
        "key": pa.array(key),
        "first": pa.array(first),
        "row": pa.array(rows, pa.int64()),
        "text": pa.array(texts, pa.int64()),
        "digest": pa.array([d for _, encoded in waiting for d in encoded.digests], pa.binary(16)),
        "place": pa.array(places, pa.large_string()),
        "text_bytes": pa.array(np.concatenate([encoded.text_bytes for _, encoded in waiting])),
        "spans": pa.array(spans, pa.large_list(pa.int64())),
        "ids": pa.LargeListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(lengths)])), pa.array(ids)
        ),
    }
    return pa.record_batch(list(columns.values()), schema=schema)


def distinct(batch: Any, unit: Ids | None = None) -> tuple[Ids, Ids]:
    """Which documents stay, in the order of a shard, when of equal records the first stays.

    Args:
        batch: N documents.
        unit: (N,) number of the unit of each, where they are of several.

    Returns:
        Indices of those that stay (K,), and of those that don't with their originals (N - K, 2).
    """
    key, first, row, text = (_numpy(batch, name) for name in ("key", "first", "row", "text"))
    unit = np.zeros(len(key), np.int64) if unit is None else unit
    order = np.lexsort((text, row, unit, first, key))
    key, first, row, unit = key[order], first[order], row[order], unit[order]
    new = np.ones(len(key), np.bool_)
    new[1:] = (key[1:] != key[:-1]) | (first[1:] != first[:-1])
    original = np.maximum.accumulate(np.where(new, np.arange(len(key)), 0))
    stays = (row == row[original]) & (unit == unit[original])
    return order[stays], np.stack([order[~stays], order[original[~stays]]], axis=1)


def count_repeats(count: FilterCount, batch: Any, repeats: Ids, decode: Decode) -> None:
    """Add to a report the records (N, 2: index, index of its original) that are left out."""
    text, sizes, places = _numpy(batch, "text"), _numpy(batch, "text_bytes"), batch.column("place")
    for i, original in repeats.tolist():
        count.bytes_dropped += int(sizes[i])
        if text[i] == 0:  # once per record
            count.dropped += 1
            count.reasons[EQUAL] += 1
            shown = excerpt(decode(batch.column("ids")[i].values[:EXCERPT].to_pylist()))
            count.keep(places[i].as_py(), f"{EQUAL} at {places[original]}", shown)


@dataclass(frozen=True)
class Selection:
    """Which documents of the spilled files make a shard."""

    split: str
    bins: tuple[int, int]
    """Range [start, stop) of the bins of the hash."""
    limit: int | None
    """As the split is: below it is validation. None: as the files were written."""
    written_limit: int | None
    """As the files were written; another one than `limit` only so that no split is empty. None:
    each unit was written for one split alone."""


def read_documents(
    files: Sequence[Path], chosen: Selection, repeats: FilterCount, decode: Decode
) -> list[Tokenized]:
    """The documents of a shard in its order; of equal records that of the first file and row.

    Where units are for one split each, a record of train that equals one of validation is left out.

    Args:
        files: of the units, in their order.
        repeats: counts records that are left out because an equal one stands in the shard.
        decode: text of token ids, for the examples of these.
    """
    import pyarrow as pa

    both = chosen.written_limit is None and chosen.split == "train"
    parts, units, wanted = [], [], []
    for split in SPLITS if both else (chosen.split,):
        for unit, path in enumerate(files):
            for part in _selected(path, replace(chosen, split=split)):
                parts.append(part)
                units.append(np.full(part.num_rows, unit))
                wanted.append(np.full(part.num_rows, split == chosen.split))
    batch = pa.Table.from_batches(parts).combine_chunks().to_batches()[0]
    kept, left_out = distinct(batch, np.concatenate(units))
    own = np.concatenate(wanted)
    kept, left_out = kept[own[kept]], left_out[own[left_out[:, 0]]]
    count_repeats(repeats, batch, left_out, decode)
    ids, spans = batch.column("ids"), batch.column("spans")
    offsets, values = ids.offsets.to_numpy(), ids.values.to_numpy()
    digests, places, sizes = (batch.column(name) for name in ("digest", "place", "text_bytes"))
    documents = []
    for i in kept.tolist():
        edges = spans[i].as_py()
        documents.append(
            Tokenized(
                values[offsets[i] : offsets[i + 1]],
                digests[i].as_py(),
                places[i].as_py(),
                sizes[i].as_py(),
                tuple(zip(edges[::2], edges[1::2], strict=True)),
            )
        )
    return documents


def _selected(path: Path, chosen: Selection) -> list[Any]:
    """The rows of each record batch of a file that belong to the shard."""
    import pyarrow as pa

    # Mapped, since a shard wants a small slice of every file. What is read here was written,
    # flushed and renamed by this job, and nobody changes it.
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    mine = SPLITS.index(chosen.split)
    limit = chosen.limit if chosen.limit != chosen.written_limit else None
    found = []
    for number in range(file.num_record_batches):
        if number % len(SPLITS) != mine and limit is None:
            continue
        batch = file.get_batch(number)
        bins = _numpy(batch, "key") >> np.uint64(64 - BIN_BITS)
        start, stop = np.searchsorted(bins, chosen.bins)
        batch = batch.slice(start, stop - start)
        if limit is not None:
            below = in_validation(_numpy(batch, "first"), limit)
            batch = batch.filter(pa.array(below if chosen.split == "validation" else ~below))
        found.append(batch)
    return found


def _numpy(batch: Any, name: str) -> NDArray[Any]:
    column: NDArray[Any] = batch.column(name).to_numpy()
    return column
