"""The units of work that make shards of sources. Each is a function of one picklable argument.

    tokenize    a unit of input -> a file of checked, tokenized documents (spill.py)
    write       a range of their hashes, from all these files -> a shard
    measure     a finished dataset -> bits per byte of n-grams and compressors on it

Each may be killed at any time and done again, here or elsewhere: what it leaves under its name is
whole, and the same whoever made it. A worker needs about 0.4 GB for `tokenize`, at most 1 GB with
records of any length (LONGEST_LINE, LONGEST_DOCUMENT), 0.45 GB for `write` (most of a shard of
SHARD_TOKENS, twice) and 0.5 GB for `measure`: measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.config import SourceConfig
from data.drift.sketches import sketch_documents
from data.files import DataError
from data.filters import filters_of
from data.filters.content import language_model
from data.filters.filters import EXACT, NEAR
from data.filters.rules import excerpt
from data.preparation.baselines import compressors, ngrams
from data.preparation.commits import commit
from data.preparation.encoding import Encoder, batches, bytes_of
from data.preparation.scan import read_repeats
from data.preparation.spill import EQUAL, Selection, SpillWriter, read_documents
from data.preparation.survivors import Survivors, name_of_unit
from data.records import Record
from data.shards import ShardSet, Tokenized, write_shard
from data.sources.inputs import InputUnit
from data.tokenizer import Tokenizer

SPILL = "documents.arrow"
HISTOGRAM = "histogram.npy"
REASONS = {EXACT: EQUAL, NEAR: "almost equal to an earlier record"}
LANGUAGE_CHARACTERS = 300  # that tell the language of a document
BASELINE_TRAIN_BYTES = 1 << 26
BASELINE_VALIDATION_BYTES = 1 << 22  # xz takes a second for 2 MB


@dataclass(frozen=True)
class TokenizeTask:
    """A unit of input to be tokenized."""

    config: SourceConfig
    unit: InputUnit
    folder: str
    """Where the result goes."""
    tokenizer: str
    """File of the tokenizer."""
    limit: int
    """Of the validation split: SpillWriter.limit."""
    left_out: str | None
    """File of the rows that are copies of others (`write_repeats`), if records were compared."""

    def __str__(self) -> str:
        """For messages: which part of which files."""
        return name_of_unit(self.config, self.unit)


@lru_cache(maxsize=2)
def encoder_of(path: str) -> Encoder:
    """The encoder of a tokenizer's file, read once per process; such files never change."""
    return Encoder(Tokenizer.load(Path(path)))


def tokenize(task: TokenizeTask) -> dict[str, Any]:
    """Read, filter and tokenize a unit; returns counts.

    Raises:
        DataError: a record can't be read or does not come back from its tokens; names file and row.
    """

    def work(folder: Path) -> dict[str, Any]:
        encoder = encoder_of(task.tokenizer)
        survivors = Survivors(task.config, task.unit)
        report = survivors.report
        repeats = report[EXACT]
        spill = SpillWriter(
            folder / SPILL, encoder.dtype, task.limit, repeats, encoder.tokenizer.decode
        )
        text_bytes = tokens = 0
        for batch in batches(_originals(survivors, task.left_out)):
            encoded = encoder.encode([record for _, record in batch])
            spill.add(batch, encoded)
            text_bytes += int(encoded.text_bytes.sum())
            tokens += len(encoded.ids)
        spill.close()
        report.see(EXACT, survivors.records)
        if survivors.filters.near is not None:
            report.see(NEAR, survivors.records - report[EXACT].dropped)
        np.save(folder / HISTOGRAM, spill.histogram)
        return {
            "text_bytes": text_bytes,
            "tokens": tokens,
            "cut": survivors.cut,
            "lowest": spill.lowest.hex() if spill.lowest else None,
            "highest": spill.highest.hex() if spill.highest else None,
            "report": report.to_dict(),
            "table": survivors.table(),
        }

    return commit(Path(task.folder), work)


def _originals(survivors: Survivors, left_out: str | None) -> Iterator[tuple[int, Record]]:
    """The records that are no copies of others, as far as that is known; counts the others."""
    repeats = read_repeats(Path(left_out)) if left_out else {}
    for row, record in survivors:
        if row not in repeats:
            yield row, record
            continue
        name, original = repeats[row]
        shown, place = excerpt(record.texts[0]), record.place
        survivors.report.drop(name, place, REASONS[name], record.texts, shown, f"at {original}")


@dataclass(frozen=True)
class WriteTask:
    """A shard to be written."""

    units: tuple[str, ...]
    """Folders that `tokenize` filled, in order of the units."""
    chosen: Selection
    number: int
    """Of the shard."""
    folder: str
    """Where the result goes; the shard itself goes to `shards`."""
    shards: str
    tokenizer: str
    filters: tuple[Mapping[str, Any], ...]
    """Of the dataset, for the report."""

    def __str__(self) -> str:
        """For messages."""
        return f"shard {self.number} of {self.chosen.split} in {self.shards}"


def write(task: WriteTask) -> dict[str, Any]:
    """Write a shard; returns its entry for the index, and a report of the repeats left out."""

    def work(folder: Path) -> dict[str, Any]:
        encoder = encoder_of(task.tokenizer)
        files = [Path(unit) / SPILL for unit in task.units]
        report = filters_of(task.filters).report()
        decode = encoder.tokenizer.decode
        documents = read_documents(files, task.chosen, report[EXACT], decode)
        if not documents:
            raise DataError(
                f"{task}: every record of it is one of validation, too; give data.validation "
                "documents that are not in data.path"
            )
        entry = write_shard(
            Path(task.shards),
            task.number,
            documents,
            max_id=encoder.tokenizer.vocab_size - 1,
            end_of_text=encoder.tokenizer.end_of_text,
            sketch=_sketch(encoder, documents),
        )
        return {"entry": asdict(entry), "text_bytes": entry.text_bytes, "report": report.to_dict()}

    return commit(Path(task.folder), work)


def _sketch(encoder: Encoder, documents: list[Tokenized]) -> str:
    return sketch_documents(
        [document.ids for document in documents],
        [document.text_bytes for document in documents],
        [document.digest for document in documents],
        encoder.tokenizer,
        lambda number: str(language_model().classify(_start(encoder, documents[number].ids))[0]),
    ).to_json()


def _start(encoder: Encoder, ids: NDArray[Any]) -> str:
    """The first LANGUAGE_CHARACTERS of a document's text again, from its tokens."""
    if encoder.pieces is None:
        text = encoder.tokenizer.decode(ids[:-1])
    else:  # a token is a byte at least, and a character four bytes at most
        text = str(bytes_of(encoder.pieces, ids[: 4 * LANGUAGE_CHARACTERS]), "utf-8", "ignore")
    return text[:LANGUAGE_CHARACTERS]


@dataclass(frozen=True)
class MeasureTask:
    """A dataset to be measured; folders of its splits."""

    what: str
    """ngrams or compressors."""
    train: str
    validation: str
    tokenizer: str

    def __str__(self) -> str:
        """For messages."""
        return f"{self.what} of {self.train}"


def measure(task: MeasureTask) -> dict[str, float]:
    """Bits per byte of some baselines, on the first so many bytes of each split.

    Documents stand in order of a hash, so these are a fair sample.
    """
    encoder = encoder_of(task.tokenizer)
    validation = _text(encoder, Path(task.validation), BASELINE_VALIDATION_BYTES)
    if task.what == "compressors":
        return compressors(validation)
    return ngrams(_text(encoder, Path(task.train), BASELINE_TRAIN_BYTES), validation)


def _text(encoder: Encoder, folder: Path, most: int, step: int = 1 << 20) -> bytes:
    """The first `most` bytes of a split's text."""
    shards = ShardSet.open(folder)
    parts, size, start = [], 0, 0
    while start < shards.tokens and size < most:
        ids = shards.read(start, min(start + step, shards.tokens))
        if encoder.pieces is None:
            plain = ids[ids != encoder.tokenizer.end_of_text]
            parts.append(encoder.tokenizer.decode(plain).encode("utf-8"))
        else:
            parts.append(bytes(bytes_of(encoder.pieces, ids)))
        size += len(parts[-1])
        start += len(ids)
    return b"".join(parts)[:most]
