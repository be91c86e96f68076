"""Rows: how the documents of a shard set are laid out in pieces of R targets.

The stream of a shard set is one end of text and then its tokens, so the context of a token is the
one before it in the stream, and the first one has a context too. Three packings:

- chunked: row i is stream[i*R : i*R + R + 1]; documents are cut wherever a row ends, and the
  tokens after the last whole row are dropped.
- best_fit: a document that fits in a row is never cut. A longer one is cut in pieces of R targets;
  its last piece opens a row of its own, behind its context. Whole documents fill what is left of
  the rows, best-fit decreasing (Ding et al. 2024, arXiv:2404.10830). What stays empty is end of
  text that is no target.
- one_document: a row for each document, or for each of the pieces of a long one.

Every document ends with end of text, and that is the context of a document wherever it stands. So
in every row the targets are the tokens one place further, and with the last two packings every
token is a target exactly once.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.files import DataError
from data.order import Ids
from data.packing.plans import open_plan
from data.shards import BLOCK_BYTES, ShardSet


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens of one document that are targets in a row."""

    document: int
    """Number of the document in the shard set."""
    offset: int
    """Place of the first one in the document, tokens."""
    length: int
    """How many."""
    start: int
    """Place of the first one among the row's targets."""


class Rows(Protocol):
    """A shard set in rows of R = `row_tokens` targets."""

    shards: ShardSet
    row_tokens: int
    count: int
    """Rows."""
    fingerprint: str
    """Identity of what every row holds."""
    rows_per_block: int
    """Rows whose tokens fill one block of the shards, at least 1."""
    efficiency: float
    """Share of the rows' places that hold a target; the others are padding."""

    def read(self, rows: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens (B, R+1) of rows (B,), and which of [:, 1:] are targets (B, R)."""

    def prefetch(self, rows: Ids) -> None:
        """Begin to read rows (B,) that are wanted soon; returns before they are there."""

    def segments(self, row: int) -> list[Segment]:
        """What the targets of a row are, in their order."""

    def rows_of(self, document: int) -> range:
        """Rows that hold targets of a document, in the order of its tokens."""


def rows(shards: ShardSet, packing: str, row_tokens: int, plans: Path) -> Rows:
    """The rows of a shard set; a plan that is needed and not there yet is made under `plans`.

    Processes that ask for the same plan at the same time make it once.

    Raises:
        DataError: unknown packing, no whole row, or a plan on the disk that is damaged.
    """
    if row_tokens < 1:
        raise DataError(f"rows of {row_tokens} tokens: data.row_tokens must be at least 1")
    if packing == "chunked":
        return Chunked(shards, row_tokens)
    if packing not in ("best_fit", "one_document"):
        raise DataError(f"data.packing={packing} is not chunked, best_fit or one_document")
    return Packed(shards, packing, row_tokens, plans)


def document_ids(inputs: NDArray[np.int64], end_of_text: int) -> NDArray[np.int32]:
    """A number per input (B, T) that is the same within a document: (B, T).

    An end of text among the inputs opens the next document, whose context it is: none of its
    inputs was a token of the document before.
    """
    ids: NDArray[np.int32] = (inputs == end_of_text).cumsum(1, dtype=np.int32)
    return ids


class Chunked:
    """Rows that are strides of the stream; see `Rows`."""

    efficiency = 1.0

    def __init__(self, shards: ShardSet, row_tokens: int) -> None:
        """Raises DataError when not even one row fits."""
        self.shards, self.row_tokens = shards, row_tokens
        self.count = shards.tokens // row_tokens
        if not self.count:
            raise DataError(
                f"a row of {row_tokens} tokens is longer than {shards.manifest.name}, which has "
                f"{shards.tokens}; set data.sequence_length (and data.row_tokens, where it is "
                f"set) to {shards.tokens} or less, or bring more text"
            )
        facts = f"chunked {row_tokens} {shards.fingerprint}"
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()
        self.rows_per_block = max(1, _block_tokens(shards) // row_tokens)

    def read(self, rows: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens (B, R+1) and loss mask (B, R)."""
        R = self.row_tokens
        tokens = np.empty((len(rows), R + 1), dtype=np.int64)
        if rows.all():
            self.shards.read_many(rows * R - 1, R + 1, out=tokens)
        else:  # the end of text before the first token stands in no shard
            inner = rows > 0
            tokens[inner] = self.shards.read_many(rows[inner] * R - 1, R + 1)
            tokens[~inner, 0] = self.shards.end_of_text
            tokens[~inner, 1:] = self.shards.read(0, R)
        return tokens, np.ones((len(rows), R), dtype=np.bool_)

    def prefetch(self, rows: Ids) -> None:
        """Begin to read rows that are wanted soon."""
        self.shards.prefetch(rows * self.row_tokens, self.row_tokens)

    def segments(self, row: int) -> list[Segment]:
        """The documents of a row."""
        R = self.row_tokens
        documents, offsets = self.shards.document_at(np.arange(row * R, row * R + R))
        opens = np.flatnonzero(np.diff(documents, prepend=documents[0] - 1))
        lengths = np.diff(opens, append=R)
        return _segments(documents[opens], offsets[opens], lengths, opens)

    def rows_of(self, document: int) -> range:
        """The rows that a document reaches into; none if all of it is dropped."""
        start, stop = self.shards.extent(document)
        last = min((stop - 1) // self.row_tokens, self.count - 1)
        return range(start // self.row_tokens, last + 1)


class Packed:
    """Rows of a plan; see `Rows`. Nothing is scanned: a row costs what its segments cost."""

    def __init__(self, shards: ShardSet, packing: str, row_tokens: int, plans: Path) -> None:
        """Raises DataError when the plan on the disk is damaged."""
        self._plan, self.fingerprint = open_plan(shards, packing, row_tokens, plans)
        self.shards, self.row_tokens = shards, row_tokens
        self.count = len(self._plan.ends) - 1
        self.efficiency = shards.tokens / (self.count * row_tokens)
        self.rows_per_block = max(1, _block_tokens(shards) * self.count // shards.tokens)

    def read(self, rows: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens (B, R+1) and loss mask (B, R).

        A segment of n tokens is two pieces of one power of two, the largest in n, which overlap
        where they must: so few different lengths occur that each is one vectorised read.
        """
        B, R = len(rows), self.row_tokens
        sizes = self._plan.ends[rows + 1] - self._plan.ends[rows]  # segments of each row
        opens = np.cumsum(sizes) - sizes
        chosen = np.repeat(self._plan.ends[rows] - opens, sizes) + np.arange(sizes.sum())
        starts, lengths = self._plan.starts[chosen], self._plan.lengths[chosen].astype(np.int64)
        before = np.cumsum(lengths) - lengths
        filled = np.add.reduceat(lengths, opens)  # targets of each row
        # Targets stand behind the context, so the first one is at place 1 of its R + 1.
        shift = np.arange(B) * (R + 1) + 1 - before[opens]
        places = before + np.repeat(shift, sizes)

        tokens = np.full(B * (R + 1), self.shards.end_of_text, dtype=np.int64)
        contexts = np.flatnonzero(starts[opens] > 0)
        tokens[contexts * (R + 1)] = self.shards.read_many(starts[opens[contexts]] - 1, 1)[:, 0]
        widths = 1 << (np.frexp(lengths)[1].astype(np.int64) - 1)
        for width in np.unique(widths).tolist():
            same = widths == width
            rest = lengths[same] - width
            again = rest > 0
            at, to = starts[same], places[same]
            at = np.concatenate([at, (at + rest)[again]])
            to = np.concatenate([to, (to + rest)[again]])
            tokens[to[:, None] + np.arange(width)] = self.shards.read_many(at, width)
        return tokens.reshape(B, R + 1), np.arange(R) < filled[:, None]

    def prefetch(self, rows: Ids) -> None:
        """Begin to read rows that are wanted soon; longer documents than a block only in part."""
        first, stop = self._plan.ends[rows], self._plan.ends[rows + 1]
        chosen = np.concatenate([np.arange(a, b) for a, b in zip(first, stop, strict=True)])
        self.shards.prefetch(self._plan.starts[chosen], 1)

    def segments(self, row: int) -> list[Segment]:
        """The documents of a row."""
        first, stop = self._plan.ends[row], self._plan.ends[row + 1]
        lengths = self._plan.lengths[first:stop].astype(np.int64)
        documents, offsets = self.shards.document_at(self._plan.starts[first:stop])
        return _segments(documents, offsets, lengths, np.cumsum(lengths) - lengths)

    def rows_of(self, document: int) -> range:
        """The rows of a document's pieces, or the one that holds all of it."""
        start, stop = self.shards.extent(document)
        first, pieces = int(self._plan.first_rows[document]), -((start - stop) // self.row_tokens)
        return range(first, first + pieces)


def _segments(documents: Ids, offsets: Ids, lengths: Ids, starts: Ids) -> list[Segment]:
    columns = (column.tolist() for column in (documents, offsets, lengths, starts))
    return [Segment(*values) for values in zip(*columns, strict=True)]


def _block_tokens(shards: ShardSet) -> int:
    return BLOCK_BYTES // shards.dtype.itemsize
