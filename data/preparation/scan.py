"""A first look at all records, where something must be known of them before they are tokenized.

    scan             a unit of input -> a sample of its texts, and signatures of its records
    training_texts   the samples of all units -> what a tokenizer is trained on
    repeated         the signatures of all units -> which records are copies of which

The sample is chosen by hash: a record of the train split is in it when the second half of its
digest is below a share. So it does not depend on the order of units or records, or on who read
them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.config import SourceConfig
from data.filters.duplicates import NearDuplicates, compared_text, near_duplicates, signatures
from data.filters.filters import EXACT, NEAR
from data.preparation.commits import commit
from data.preparation.encoding import Ids, batches, digest_of, record_digest
from data.preparation.survivors import Survivors, name_of_unit
from data.sources import inputs
from data.sources.inputs import InputUnit

SAMPLE = "sample.arrow"
RECORDS = "records.arrow"
SIGNATURES = "signatures.npy"
TRAIN_BYTES = 1 << 28
"""A tokenizer is trained on at most so much text; 256 MiB take some minutes."""
PART = 1024  # records that are written and read at a time
WHOLE = 1 << 64

Raw = tuple[bytes, ...]  # texts of a record, UTF-8


@dataclass(frozen=True)
class ScanTask:
    """A unit of input to be looked at."""

    config: SourceConfig
    unit: InputUnit
    folder: str
    """Where the result goes."""
    limit: int
    """Of the validation split: SpillWriter.limit."""
    below: int
    """Records of the train split whose key is below it are sampled, at most TRAIN_BYTES of them."""

    def __str__(self) -> str:
        """For messages."""
        return name_of_unit(self.config, self.unit)


def sampled_below(units: int) -> int:
    """The highest key of a sample, from the number of units it is taken from.

    Twice what is needed if a unit holds UNIT_BYTES of text: some hold less.
    """
    return min(WHOLE, WHOLE * 2 * TRAIN_BYTES // (units * inputs.UNIT_BYTES))


def scan(task: ScanTask) -> dict[str, Any]:
    """Look at a unit; returns counts.

    Raises:
        DataError: a record can't be read; names file and row.
    """

    def work(folder: Path) -> dict[str, Any]:
        survivors = Survivors(task.config, task.unit)
        near = survivors.filters.near
        sample = Sample(TRAIN_BYTES, task.below)
        rows: list[int] = []
        digests: list[bytes] = []
        places: list[str] = []
        parts: list[NDArray[np.uint32]] = []
        text_bytes = 0
        for batch in batches(survivors):
            for row, record in batch:
                raw = [text.encode("utf-8") for text in record.texts]
                text_bytes += sum(map(len, raw))
                digest = record_digest(list(map(digest_of, raw)))
                if int.from_bytes(digest[:8], "big") >= task.limit:
                    sample.add(digest, row, tuple(raw))
                if near is not None:
                    rows.append(row)
                    digests.append(digest)
                    places.append(record.place)
            if near is not None:
                parts.append(signatures([compared_text(record) for _, record in batch], near))
        sample.save(folder / SAMPLE)
        if near is not None:
            _save_records(folder / RECORDS, rows, digests, places)
            empty = np.empty((0, near.permutations), np.uint32)
            np.save(folder / SIGNATURES, np.concatenate([empty, *parts]))
        return {"text_bytes": text_bytes, "records": survivors.records}

    return commit(Path(task.folder), work)


class Sample:
    """The records with the lowest keys, at most so many bytes of them.

    Attributes:
        below: keys below it are complete; those from it on were left out for the bytes.
    """

    def __init__(self, most_bytes: int, below: int = WHOLE) -> None:
        """Empty; records with keys from `below` on are not wanted."""
        self.most_bytes, self.below = most_bytes, below
        self._records: dict[bytes, tuple[int, Raw]] = {}  # by digest
        self._size = 0

    def add(self, digest: bytes, row: int, texts: Raw) -> None:
        """Take a record if it belongs to the sample."""
        if _key(digest) < self.below and digest not in self._records:
            self._records[digest] = row, texts
            self._size += sum(map(len, texts))
            if self._size > 1.25 * self.most_bytes:
                self._cut()

    def items(self) -> Iterator[tuple[bytes, int, Raw]]:
        """Digest, row and texts by key, at most `most_bytes` of text but at least one record."""
        self._cut()
        for digest in sorted(self._records, key=_order):
            yield digest, *self._records[digest]

    def save(self, path: Path) -> None:
        """Write it as an Arrow stream, with `below`."""
        import pyarrow as pa

        items = self.items()
        columns = [("digest", pa.binary(16)), ("row", pa.int64())]
        schema = pa.schema([*columns, ("texts", pa.list_(pa.large_string()))])
        part = list(islice(items, PART))  # cuts what is too much
        schema = schema.with_metadata({"below": str(self.below)})
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as out:
            while part:
                values = zip(schema.types, zip(*part, strict=True), strict=True)
                arrays = [pa.array(list(own), kind) for kind, own in values]
                out.write_batch(pa.record_batch(arrays, schema=schema))
                part = list(islice(items, PART))

    def _cut(self) -> None:
        size = 0
        for number, digest in enumerate(sorted(self._records, key=_order)):
            size += sum(map(len, self._records[digest][1]))
            if size > self.most_bytes and number:
                self.below = _key(digest)
                self._records = {d: r for d, r in self._records.items() if _key(d) < self.below}
                break
        self._size = sum(len(text) for _, texts in self._records.values() for text in texts)


def _key(digest: bytes) -> int:
    return int.from_bytes(digest[8:], "big")


def _order(digest: bytes) -> tuple[bytes, bytes]:
    return digest[8:], digest[:8]


@dataclass(frozen=True)
class TrainingTexts:
    """What a tokenizer is trained on, read from the samples when it is wanted.

    In the order of the units: a tokenizer does not depend on the order of its texts.
    """

    documents: int
    bytes: int
    """UTF-8."""
    chosen: Sequence[tuple[Path, NDArray[np.bool_]]]
    """Samples, and which of their records are taken."""

    def __iter__(self) -> Iterator[str]:
        """The texts; of the files no more than a part is in memory."""
        for path, taken in self.chosen:
            at = 0
            for _, batch in _batches(path):
                texts = batch.column("texts")
                for number in np.flatnonzero(taken[at : at + len(texts)]).tolist():
                    yield from texts[number].as_py()
                at += len(texts)


def training_texts(
    datasets: Iterable[tuple[Sequence[Path], Sequence[Mapping[int, Any]]]],
) -> TrainingTexts:
    """The records with the lowest keys of several samples, at most TRAIN_BYTES of text.

    Args:
        datasets: of each the folders that `scan` filled, and for each folder the rows not to take.
    """
    paths: list[Path] = []
    counts: list[int] = []  # records of each
    parts: list[tuple[NDArray[Any], ...]] = []
    below = WHOLE
    for folders, left_out in datasets:
        for folder, without in zip(folders, left_out, strict=True):
            paths.append(folder / SAMPLE)
            counts.append(0)
            for complete, batch in _batches(paths[-1]):
                below = min(below, complete)
                counts[-1] += batch.num_rows
                parts.append((*_about(batch), ~np.isin(batch.column("row"), list(without))))
    digests, documents, sizes, wanted = (np.concatenate(own) for own in zip(*parts, strict=True))
    first, key = digests.reshape(-1, 2).T
    if below < WHOLE:
        wanted &= key < np.uint64(below)
    order = np.lexsort((first, key))
    order = order[wanted[order]]
    same = (np.diff(key[order], prepend=0) == 0) & (np.diff(first[order], prepend=0) == 0)
    same[:1] = False
    order = order[~same]
    order = order[: max(1, int(np.searchsorted(sizes[order].cumsum(), TRAIN_BYTES, "right")))]
    taken = np.zeros(len(key), np.bool_)
    taken[order] = True
    chosen = list(zip(paths, np.split(taken, np.cumsum(counts)[:-1]), strict=True))
    return TrainingTexts(int(documents[taken].sum()), int(sizes[taken].sum()), chosen)


def _batches(path: Path) -> Iterator[tuple[int, Any]]:
    """Below what a sample is complete, and its records part by part; one part at least."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        reader = pa.ipc.open_stream(file)
        below = int(reader.schema.metadata[b"below"])
        yield below, pa.RecordBatch.from_pylist([], reader.schema)
        for batch in reader:
            yield below, batch


def _about(batch: Any) -> tuple[NDArray[np.uint64], Ids, Ids]:
    """Halves of the digests (2 N,), number of texts (N,) and their bytes (N,) of N records."""
    import pyarrow.compute as pc

    digests = np.frombuffer(b"".join(batch.column("digest").to_pylist()), ">u8").astype(np.uint64)
    texts = batch.column("texts")
    ends = texts.offsets.to_numpy() - texts.offsets[0].as_py()
    sizes = np.concatenate([[0], np.cumsum(pc.binary_length(texts.flatten()).to_numpy())])
    return digests, np.diff(ends), np.diff(sizes[ends])


def _save_records(path: Path, rows: list[int], digests: list[bytes], places: list[str]) -> None:
    import pyarrow as pa

    table = pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "digest": pa.array(digests, pa.binary(16)),
            "place": pa.array(places, pa.large_string()),
        }
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as out:
        out.write_table(table)


Repeats = dict[int, tuple[str, str]]  # row -> name of the filter, place of the original


def repeated(folders: Sequence[Path], settings: NearDuplicates) -> list[Repeats]:
    """Which rows of each scanned unit are left out as exact or near copies, and of what."""
    import pyarrow as pa

    tables = [pa.ipc.open_file(pa.memory_map(str(f / RECORDS))).read_all() for f in folders]
    rows = [table.column("row").to_numpy() for table in tables]
    places = [table.column("place") for table in tables]
    unit = np.repeat(np.arange(len(rows)), list(map(len, rows)))
    inside = np.concatenate([np.arange(len(own)) for own in rows])
    raw = b"".join(d for table in tables for d in table.column("digest").to_pylist())
    _, first, which = np.unique(np.frombuffer(raw, "V16"), return_index=True, return_inverse=True)
    original = first[which]  # np.unique takes the first of equal ones
    exact = original != np.arange(len(original))
    found: list[Repeats] = [{} for _ in folders]
    for i in np.flatnonzero(exact).tolist():
        j = int(original[i])
        place = places[unit[j]][int(inside[j])].as_py()
        found[unit[i]][int(rows[unit[i]][inside[i]])] = (EXACT, place)
    stays = [inside[(unit == number) & ~exact] for number in range(len(folders))]
    kept = []
    for folder, own in zip(folders, stays, strict=True):
        stored = np.load(folder / SIGNATURES, mmap_mode="r")
        kept.append(stored if len(own) == len(stored) else stored[own])
    for number, copies in enumerate(near_duplicates(kept, settings)):
        for i, (other, j) in copies.items():
            place = places[other][int(stays[other][j])].as_py()
            found[number][int(rows[number][stays[number][i]])] = (NEAR, place)
    return found


def write_repeats(path: Path, repeats: Repeats) -> None:
    """Store what `repeated` says of one unit, for `read_repeats`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([[row, *why] for row, why in repeats.items()]), encoding="utf-8")


def read_repeats(path: Path) -> Repeats:
    """What `write_repeats` stored."""
    return {row: (name, place) for row, name, place in json.loads(path.read_text("utf-8"))}
