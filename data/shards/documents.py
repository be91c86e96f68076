"""Which documents a shard set holds: where each stands in the stream, and where it came from."""

import hashlib
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DamagedData
from data.shards.blocks import REMEDY
from data.shards.manifest import ShardEntry

OFFSETS_KEPT = 64  # shards whose document offsets stay in memory, 8 bytes a document
FACTS_KEPT = 4  # shards whose digests and places do
DIGITS = 8  # hexadecimal digits that are enough to be looked for among digests
ROW = re.compile(r":( row| byte)? ?\d+$")  # end of a place that says which row

Ids = NDArray[np.int64]


class Documents:
    """The documents of a shard set, numbered in the order of the stream.

    What is asked for is read from its shard when it is needed. The offsets of documents have a
    hash of their own in the index, because the sha256 of the shard would have all its tokens read
    for them; the file of digests and places is small, and its sha256 is compared.
    """

    def __init__(self, folder: Path, entries: Sequence[ShardEntry]) -> None:
        """Nothing is read yet."""
        self.folder, self.entries = folder, list(entries)
        self._starts = np.cumsum([0, *(entry.tokens for entry in entries)])
        self._firsts = np.cumsum([0, *(entry.rows for entry in entries)])
        self._ends = lru_cache(OFFSETS_KEPT)(self._read_ends)
        self._facts = lru_cache(FACTS_KEPT)(self._read_facts)

    def extent(self, document: int) -> tuple[int, int]:
        """First token of a document in the stream, and where it ends."""
        shard, row = self._row(document)
        start, stop = self._ends(shard)[row : row + 2].tolist()
        return start, stop

    @cached_property
    def offsets(self) -> Ids:
        """(documents + 1,): where in the stream each document starts, and the end.

        Of all shards: 8 bytes per document. `extent` and `document_at` read only what they need.
        """
        parts = [self._ends(shard)[:-1] for shard in range(len(self.entries))]
        return np.concatenate([*parts, self._starts[-1:]])

    def document_at(self, positions: Ids) -> tuple[Ids, Ids]:
        """Which document holds each token of the stream, and how far into it that is, (B,) both.

        Raises:
            IndexError: a position is outside the stream.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < self._starts[-1]:
            ranges = f"{positions.min()}..{positions.max()}"
            raise IndexError(f"tokens {ranges} are not inside 0..{self._starts[-1]}")
        documents, offsets = np.empty_like(positions), np.empty_like(positions)
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        for shard in np.unique(shards).tolist():
            chosen = shards == shard
            ends = self._ends(shard)
            rows = np.searchsorted(ends, positions[chosen], side="right") - 1
            documents[chosen] = rows + self._firsts[shard]
            offsets[chosen] = positions[chosen] - ends[rows]
        return documents, offsets

    def shard_of(self, document: int) -> str:
        """Name of the file that holds a document."""
        return self.entries[self._row(document)[0]].file

    def digest(self, document: int) -> bytes:
        """blake2b-128 of the document's UTF-8 text."""
        return self._fact(document, "digest")  # type: ignore[no-any-return]

    def place(self, document: int) -> str:
        """File and row of the source that the document came from."""
        return self._fact(document, "place")  # type: ignore[no-any-return]

    def all_text_bytes(self) -> Ids:
        """(documents,): UTF-8 bytes of the text of each document."""
        tables = (self._facts(shard) for shard in range(len(self.entries)))
        return np.concatenate([table["text_bytes"].to_numpy() for table in tables]).astype(np.int64)

    def spans(self, document: int) -> tuple[tuple[int, int], ...]:
        """Token ranges [start, stop) of the document to be trained on; (): all of it."""
        return tuple((span["start"], span["stop"]) for span in self._fact(document, "spans"))

    def find(self, what: str | bytes) -> list[int]:
        """Numbers of the documents with this digest or place.

        Args:
            what: a digest as bytes or, from its start on, as 8 or more hexadecimal digits; or a
                place: with its row, or its start, which finds all rows of a file or folder.
        """
        import pyarrow.compute as pc

        if not what:
            raise ValueError("find: give a digest or a place, or the start of one")
        whole: list[int] = []
        other: list[int] = []
        for shard, first in enumerate(self._firsts[:-1].tolist()):
            table = self._facts(shard)
            digits = what.hex() if isinstance(what, bytes) else what.lower()
            match = _starts_with(self._digests(shard), digits)
            if isinstance(what, str):
                if not ROW.search(what):  # else row 7 would find row 70
                    match |= pc.starts_with(table["place"], what).to_numpy()
                same = pc.equal(table["place"], what).to_numpy()
                whole += (np.flatnonzero(same) + first).tolist()
            other += (np.flatnonzero(match) + first).tolist()
        return whole or other

    def all_digests(self) -> set[bytes]:
        """Of all documents: 16 bytes each, and what a set costs."""
        shards = range(len(self.entries))
        return {row.tobytes() for shard in shards for row in self._digests(shard)}

    def _digests(self, shard: int) -> NDArray[np.uint8]:
        """(rows, 16) of a shard."""
        column = self._facts(shard)["digest"].chunk(0)
        raw = np.frombuffer(column.buffers()[1], np.uint8)
        return raw[: 16 * len(column)].reshape(-1, 16)

    def _row(self, document: int) -> tuple[int, int]:
        """Shard, and row in it."""
        if not 0 <= document < self._firsts[-1]:
            raise IndexError(f"document {document} is not inside 0..{self._firsts[-1]}")
        shard = int(np.searchsorted(self._firsts, document, side="right")) - 1
        return shard, document - int(self._firsts[shard])

    def _fact(self, document: int, column: str) -> Any:
        shard, row = self._row(document)
        return self._facts(shard)[column][row].as_py()

    def _read_ends(self, shard: int) -> Ids:
        """(rows + 1,): where in the stream the documents of a shard start, and its end."""
        import xxhash

        entry = self.entries[shard]
        size = 8 * (entry.rows + 1)
        raw = self._trusted(
            entry.file,
            entry.ends_at,
            size,
            lambda raw: xxhash.xxh3_64_hexdigest(raw) == entry.ends_hash,
        )
        ends: Ids = np.frombuffer(raw, dtype=np.int64) + self._starts[shard]
        return ends

    def _read_facts(self, shard: int) -> Any:
        """The table of a shard's digests, places, text bytes and spans."""
        import pyarrow as pa

        entry = self.entries[shard]
        raw = self._trusted(
            entry.documents_file,
            0,
            entry.documents_size,
            lambda raw: hashlib.sha256(raw).hexdigest() == entry.documents_sha256,
        )
        return pa.ipc.open_stream(pa.py_buffer(raw)).read_all()

    def _trusted(
        self, name: str, start: int, size: int, is_right: Callable[[bytes], bool]
    ) -> bytes:
        """Bytes of a file, if they are what was written."""
        path = self.folder / name
        with suppress(OSError), path.open("rb") as file:
            file.seek(start)
            if is_right(raw := file.read(size)):
                return raw
        raise DamagedData(
            f"{path} is missing or not what was written at bytes {start}..{start + size}; {REMEDY}"
        )


def _starts_with(digests: NDArray[np.uint8], digits: str) -> NDArray[np.bool_]:
    """Which digests (rows, 16) start with these hexadecimal digits; too few or others: none."""
    if not re.fullmatch(f"[0-9a-f]{{{DIGITS},32}}", digits):
        return np.zeros(len(digests), dtype=np.bool_)
    whole, odd = divmod(len(digits), 2)
    wanted = np.frombuffer(bytes.fromhex(digits[: 2 * whole]), np.uint8)
    match: NDArray[np.bool_] = np.all(digests[:, :whole] == wanted, axis=1)
    return match & (digests[:, whole] >> 4 == int(digits[-1], 16)) if odd else match
