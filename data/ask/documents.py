"""Which documents were in a step, and in which steps a document was or will be.

Both are worked out from the order, which can be computed at any position and inverted; no list of
what was read is kept.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.feed.stream import Stream
from data.order.mixture import MIXTURE_BLOCK
from data.packing import Segment
from data.sources.inputs import InputUnit
from data.sources.lines import exact_place
from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Piece:
    """A part of one document in a sequence."""

    dataset: str
    epoch: int
    row: int
    """Row of the dataset."""
    start: int
    """First of its targets, counted from the start of the sequence."""
    tokens: int
    """Number of targets."""
    document: int
    """Number of the document in the dataset's split."""
    offset: int
    """First of its targets, counted from the start of the document."""
    shard: str
    """File that holds it."""
    place: str
    """File and row of the source that it came from."""
    digest: str
    """Its hash, hexadecimal."""
    text: str
    """What these tokens say."""


@dataclass(frozen=True)
class Sighting:
    """A place of the run where tokens of a document are targets."""

    cursor: int
    """Tokens of the run before the sequence."""
    epoch: int
    row: int
    offset: int
    """First of these targets, counted from the start of the document."""
    tokens: int


def pieces_of(
    stream: Stream, tokenizer: Tokenizer, cursor: int, length: int, count: int = 1
) -> list[list[Piece]]:
    """The documents in `count` sequences of `length` tokens from a cursor on."""
    samples = stream.samples(cursor + length * np.arange(count), length)
    found = []
    for dataset, epoch, row, part in zip(
        samples.dataset.tolist(),
        samples.epoch.tolist(),
        samples.row.tolist(),
        samples.part.tolist(),
        strict=True,
    ):
        name = stream.names[dataset]
        own = stream.rows[name]
        pieces = []
        for segment, first, size in _clipped(stream, name, row, part * length, length):
            offset = segment.offset + first - segment.start
            ids = own.shards.document(segment.document)[offset : offset + size]
            pieces.append(
                Piece(
                    dataset=name,
                    epoch=epoch,
                    row=row,
                    start=first - part * length,
                    tokens=size,
                    document=segment.document,
                    offset=offset,
                    shard=own.shards.shard_of(segment.document),
                    place=_exact(own.shards.place(segment.document)),
                    digest=own.shards.digest(segment.document).hex(),
                    text=tokenizer.decode(ids.tolist()),
                )
            )
        found.append(pieces)
    return found


def sightings_of(
    stream: Stream, name: str, document: int, length: int, start: int, stop: int
) -> Iterator[Sighting]:
    """Each sequence of `length` tokens between two cursors that has targets of the document.

    In the order of epochs, and inside an epoch of the document's own tokens.
    """
    own, mixture, R = stream.rows[name], stream.mixture, stream.row_tokens
    # Inside a mixture block an epoch may begin before the one before it has ended.
    first = mixture.counts(start // R // MIXTURE_BLOCK * MIXTURE_BLOCK)[name] // own.count
    drawn = mixture.counts(-(-stop // (R * MIXTURE_BLOCK)) * MIXTURE_BLOCK)[name]
    for epoch in range(first, -(-drawn // own.count)):
        for row in own.rows_of(document):
            position = mixture.position_of(name, epoch, row)
            if position is not None:
                for cursor, offset, size in _parts(stream, name, row, document, length):
                    if start <= position * R + cursor < stop:
                        yield Sighting(position * R + cursor, epoch, row, offset, size)


def _exact(place: str) -> str:
    """The place with the number of the line, also deep in a file that is still there."""
    file, deep, _ = place.partition(": byte ")
    return exact_place(InputUnit((file,)), place) if deep and Path(file).is_file() else place


def _parts(
    stream: Stream, name: str, row: int, document: int, length: int
) -> Iterator[tuple[int, int, int]]:
    """(start of the sequence in the row, offset in the document, targets) of a document."""
    for start in range(0, stream.row_tokens, length):
        for segment, first, size in _clipped(stream, name, row, start, length):
            if segment.document == document:
                yield start, segment.offset + first - segment.start, size


def _clipped(
    stream: Stream, name: str, row: int, start: int, length: int
) -> Iterator[tuple[Segment, int, int]]:
    """(segment, first target, targets) of the segments inside start..start+length of a row."""
    for segment in stream.rows[name].segments(row):
        first = max(segment.start, start)
        stop = min(segment.start + segment.length, start + length)
        if first < stop:
            yield segment, first, stop - first
