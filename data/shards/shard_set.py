"""A published shard set: opened, and its stream of tokens read by ranges.

The stream of a set is the tokens of its shards, laid end to end. `manifest.py` says what stands in
the folder, `writer.py` writes it, `blocks.py` and `reader.py` read it, `documents.py` knows its
documents.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import sha256_file
from data.shards.blocks import REMEDY, Blocks, TokenFile
from data.shards.documents import Documents
from data.shards.manifest import Manifest, ShardEntry, read_set
from data.shards.reader import open_reader

Ids = NDArray[np.int64]


class ShardSet(Documents):
    """A published shard set. Safe to use from many threads, but not on both sides of a fork.

    Attributes:
        folder: where it stands.
        manifest: counts and fingerprint.
        entries: one per shard.
        dtype: of the stored tokens, uint16 or uint32.
        tokens: in the stream.
        documents: number of them.
        fingerprint: identity of the content.
        end_of_text: id at the end of each document.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        entries: list[ShardEntry],
        mapped_bytes: int | None,
        cache_bytes: int | None,
    ) -> None:
        """Use `open`, which checks that the parts belong together."""
        super().__init__(folder, entries)
        self.manifest, self.dtype = manifest, np.dtype(manifest.dtype)
        self.tokens, self.documents = manifest.tokens, manifest.documents
        self.fingerprint, self.end_of_text = manifest.fingerprint, manifest.end_of_text
        files = [
            TokenFile(folder / e.file, e.size, e.values_at, e.tokens, e.hashes()) for e in entries
        ]
        self._blocks = Blocks(manifest.name, files, self.dtype, manifest.block_bytes)
        self._reader = open_reader(self._blocks, mapped_bytes, cache_bytes)

    @staticmethod
    def open(
        folder: Path, *, mapped_bytes: int | None = None, cache_bytes: int | None = None
    ) -> "ShardSet":
        """Open a folder after checking manifest, index and file sizes (not the contents: `read`).

        Args:
            folder: of the set.
            mapped_bytes: see `open_reader`.
            cache_bytes: see `open_reader`.

        Raises:
            DataError: something is missing, torn or from another version; names file and remedy.
        """
        manifest, entries = read_set(folder)
        return ShardSet(folder, manifest, entries, mapped_bytes, cache_bytes)

    @property
    def bytes_read(self) -> int:
        """Bytes of token blocks that were read from files so far."""
        return self._blocks.bytes_read

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens start..stop of the stream, (stop - start,), uint16 or uint32.

        Raises:
            BadBlock: a block on the disk is not what was written.
            IndexError: the range is not inside the stream.
        """
        row: NDArray[Any] = self.read_many(np.array([start]), stop - start)[0]
        return row

    def read_many(
        self, starts: Ids, length: int, *, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """`length` tokens of the stream from each of `starts` (B,) on.

        Args:
            starts: integers, in any order.
            length: of each row.
            out: (B, length) integers wide enough for the ids; where to put the tokens. int64 here
                saves a copy to whoever needs int64.

        Returns:
            (B, length): `out`, or a new array of the type of the set.

        Raises:
            BadBlock: a block on the disk is not what was written, also when read again.
            IndexError: a range is not inside the stream.
        """
        if length < 0 or (
            len(starts) and not 0 <= starts.min() <= starts.max() <= self.tokens - length
        ):
            ranges = f"{starts.min()}..{starts.max()} + {length}" if len(starts) else f"{length}"
            raise IndexError(f"tokens {ranges} are not inside 0..{self.tokens}")
        if out is None:
            out = np.empty((len(starts), length), dtype=self.dtype)
        if out.shape != (len(starts), length) or not np.can_cast(self.dtype, out.dtype):
            raise ValueError(
                f"out is {out.dtype} {out.shape}, but ({len(starts)}, {length}) of {self.dtype} or "
                "a wider integer is needed"
            )
        if length:
            self._reader.rows(starts, length, out)
        return out

    def prefetch(self, starts: Ids, length: int) -> None:
        """Begin to read what `read_many` will need: a hint, of half the cache at most."""
        if length and len(starts):
            self._reader.prefetch(starts, length)

    def document(self, document: int) -> NDArray[Any]:
        """Ids of a document, end of text last."""
        return self.read(*self.extent(document))

    def problems(self) -> list[str]:
        """Read all files whole and compare all hashes: a message for each that differs."""
        found = []
        files = [("index.arrow", self.manifest.index_sha256)]
        for entry in self.entries:
            files += [(entry.file, entry.sha256), (entry.documents_file, entry.documents_sha256)]
        for name, expected in files:
            path = self.folder / name
            try:
                if sha256_file(path) != expected:
                    found.append(f"{path} is not what was written (sha256); {REMEDY}")
            except OSError as error:
                found.append(f"{path} can't be read ({error.strerror}); {REMEDY}")
        for shard in range(len(self.entries)):
            found += map(str, self._blocks.damaged(shard))
        return found
