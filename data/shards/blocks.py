"""Blocks of tokens, read from files and compared with the hashes of the index.

The stream of a shard set is cut, shard by shard, into blocks of HASH_BYTES of token values. A
block that is damaged is read a second time, from the disk itself instead of the page cache. What
is damaged then too is a `BadBlock`.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DamagedData

BLOCK_BYTES = 1 << 20
"""The unit of the windowed order and of the cache's size."""
HASH_BYTES = 1 << 17
"""The unit of reading and comparing, smaller than BLOCK_BYTES: rows that are shuffled as one block
begin anywhere in a shard. Counted in the windowed order of 1 GiB with a cache of 256 MiB, hashes
of 1 MiB have 5.2 times the useful bytes read, of 256 KiB 1.27, of 128 KiB 1.14, of 64 KiB 1.08."""
OPEN_FILES = 128
"""Shard files that a set keeps open."""
REMEDY = "delete the folder and prepare the data again"


class BadBlock(DamagedData):
    """A block of tokens that can't be read as it was written, also at the second try.

    Attributes:
        name: of the set.
        file: of the shard.
        block: number of the block in the shard.
        start: first token of the block, in the stream of the set.
        stop: where it ends.
    """

    def __init__(
        self, message: str, name: str, file: str, block: int, start: int, stop: int
    ) -> None:
        """The message says file, bytes and remedy."""
        super().__init__(message)
        self.name, self.file, self.block, self.start, self.stop = name, file, block, start, stop

    def __reduce__(self) -> tuple[Any, ...]:
        """All arguments, so that it survives the way from a worker process."""
        return BadBlock, (str(self), self.name, self.file, self.block, self.start, self.stop)


@dataclass(frozen=True)
class TokenFile:
    """Where the tokens of a shard are."""

    path: Path
    size: int
    """Bytes of the file."""
    values_at: int
    """Byte of the first token."""
    tokens: int
    hashes: NDArray[np.uint64]
    """(blocks,): xxh3-64 of each block."""


@dataclass(frozen=True, eq=False)
class Opened:
    """An open file, closed when nobody holds this any more: another thread may be reading."""

    descriptor: int

    def __del__(self) -> None:
        """Close it."""
        os.close(self.descriptor)


def _open(path: Path) -> Opened:
    """Open for reads of single blocks."""
    opened = Opened(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    _advise(opened.descriptor, 0, 0, "POSIX_FADV_RANDOM")
    return opened


def _advise(descriptor: int, start: int, size: int, advice: str) -> None:
    if hasattr(os, "posix_fadvise"):  # not on macOS
        os.posix_fadvise(descriptor, start, size, getattr(os, advice))


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes at `offset`, fewer at the end of the file."""
    parts: list[bytes] = []
    while size and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Blocks:
    """Reads blocks of a set, and remembers those that are beyond repair.

    Safe to use from many threads.

    Attributes:
        name: of the set.
        files: in the order of the stream.
        dtype: of a stored token.
        bounds: (blocks + 1,), where in the stream each block starts.
        bytes_read: bytes that were read from files so far.
    """

    def __init__(
        self, name: str, files: Sequence[TokenFile], dtype: np.dtype[Any], block_bytes: int
    ) -> None:
        """`block_bytes` of tokens per hash."""
        import xxhash

        self.name, self.files, self.dtype = name, list(files), dtype
        self._hash = xxhash.xxh3_64_intdigest
        self._block_tokens = block_bytes // dtype.itemsize
        self._first_blocks = np.cumsum([0, *(len(file.hashes) for file in files)])
        starts = np.cumsum([0, *(file.tokens for file in files)])
        inside = [np.arange(len(file.hashes)) * self._block_tokens for file in files]
        parts = [at + start for at, start in zip(inside, starts[:-1], strict=True)]
        self.bounds: NDArray[np.int64] = np.concatenate([*parts, starts[-1:]])
        self.bytes_read = 0
        self._open = lru_cache(maxsize=OPEN_FILES)(_open)
        self._bad: dict[int, str] = {}

    def read(self, block: int) -> tuple[NDArray[Any], Opened]:
        """The tokens of a block, compared with its hash, (tokens,), and the file they are from.

        Raises:
            BadBlock: they can't be read as they were written, also not at the second try.
        """
        if (known := self._bad.get(block)) is not None:
            raise self._error(block, known)
        file, _, start, size = self.locate(block)
        found = self._attempt(block)
        if isinstance(found, str):
            with suppress(OSError):
                opened = self._open(self.files[file].path)
                _advise(opened.descriptor, start, size, "POSIX_FADV_DONTNEED")
            found = self._attempt(block)
            if isinstance(found, str):
                self._bad[block] = found
                raise self._error(block, found)
        return found

    def damaged(self, file: int) -> list[BadBlock]:
        """What is wrong with the blocks of a file; nothing is mended."""
        blocks = range(*self._first_blocks[file : file + 2].tolist())
        return [
            self._error(block, found)
            for block in blocks
            if isinstance(found := self._attempt(block), str)
        ]

    def locate(self, block: int) -> tuple[int, int, int, int]:
        """File, number of the block in it, first byte, bytes."""
        file = int(np.searchsorted(self._first_blocks, block, side="right")) - 1
        number = block - int(self._first_blocks[file])
        width = self.dtype.itemsize
        begin = self.files[file].values_at + number * self._block_tokens * width
        return file, number, begin, int(self.bounds[block + 1] - self.bounds[block]) * width

    def _attempt(self, block: int) -> tuple[NDArray[Any], Opened] | str:
        """As `read`, or what is wrong with the block."""
        file, number, start, size = self.locate(block)
        try:
            opened = self._open(self.files[file].path)
            raw = _pread(opened.descriptor, size, start)
        except OSError as error:
            return f"can't be read ({error.strerror})"
        self.bytes_read += len(raw)
        if len(raw) < size:
            return "is torn"
        if self._hash(raw) != int(self.files[file].hashes[number]):
            return "is not what was written"
        return np.frombuffer(raw, dtype=self.dtype), opened

    def _error(self, block: int, fault: str) -> BadBlock:
        file, number, start, size = self.locate(block)
        path = self.files[file].path
        first, last = int(self.bounds[block]), int(self.bounds[block + 1])
        message = (
            f"{path} {fault} at bytes {start}..{start + size} (block {number}, tokens "
            f"{first}..{last} of {self.name}); {REMEDY}, or leave these tokens "
            "out with data.on_bad_block=skip"
        )
        return BadBlock(message, self.name, path.name, number, first, last)
