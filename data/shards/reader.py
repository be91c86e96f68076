"""How tokens get from files to memory: through mappings or through a cache, block by block.

Two ways, with the same results:
- `MappedReader`, for local sets that fit in memory: each block is read once with pread, which
  brings it to the page cache, and compared with its hash; from then on it is copied out of a
  mapping.
- `BufferedReader`, for all others: blocks are read with pread, compared each time, and kept in a
  cache that drops the ones used longest ago. A mapping of a cold file would read about 65 times
  the useful bytes, and on a network a file that is cut there kills the process that maps it.

A mapping whose file gets shorter kills the process that touches the missing part (SIGBUS). So the
size of the file is looked at before rows are copied out of it. What remains: the file is cut in
the moment between the look and the copy; the disk fails on a page that was compared and has left
the page cache since; or such a page is not what it was. None of it happens to a buffered set.
"""

import mmap
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.shards.blocks import BLOCK_BYTES, OPEN_FILES, Blocks, Opened
from data.shards.blocks import BadBlock as BadBlock

CACHE_BLOCKS = 256
"""The cache of a set holds CACHE_BLOCKS * BLOCK_BYTES = 256 MiB."""
MAPPED_SHARE = 1 / 4
"""Local sets up to this part of the memory, of at most OPEN_FILES files, are mapped."""
PREFETCH_THREADS = 4
PREFETCH_BLOCKS = 512
"""Blocks that wait to be read ahead, 64 MiB; who asks for more waits."""
GROUP = 256  # rows whose blocks are in memory at once, 32 MiB
LOCKS = 64
LOCAL = ("btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs")


class Reader(ABC):
    """Copies rows of tokens out of the blocks of a set. Safe to use from many threads.

    Don't use one on both sides of a fork: its locks and threads stay on one of them.
    """

    def __init__(self, blocks: Blocks) -> None:
        """Nothing is read yet."""
        self.blocks = blocks
        self._locks = [threading.Lock() for _ in range(LOCKS)]
        self._pool: ThreadPoolExecutor | None = None
        self._at_hand = np.zeros(len(blocks.bounds) - 1, dtype=np.bool_)  # a hint for prefetch
        self._waiting = threading.BoundedSemaphore(PREFETCH_BLOCKS)

    @abstractmethod
    def _held(self, blocks: list[int]) -> list[NDArray[Any] | None]:
        """The tokens of blocks that were read and compared before; None for others."""

    @abstractmethod
    def _keep(self, block: int, tokens: NDArray[Any], opened: Opened) -> NDArray[Any]:
        """Have a block at hand from now on; returns what to copy from."""

    def rows(self, starts: NDArray[np.int64], length: int, out: NDArray[Any]) -> None:
        """Copy `length` tokens of the stream from each of `starts` (B,) into `out` (B, length).

        Args:
            starts: inside the stream, with `length` tokens after each.
            length: at least 1.
            out: of a type that holds the ids.

        Raises:
            BadBlock: a block can't be read as it was written.
        """
        for first in range(0, len(starts), GROUP):
            rows = slice(first, first + GROUP)
            self._group(starts[rows], length, out[rows])

    def _group(self, starts: NDArray[np.int64], length: int, out: NDArray[Any]) -> None:
        firsts, lasts = self._touched(starts, length)
        insides = (starts - self.blocks.bounds[firsts]).tolist()
        blocks = firsts.tolist()
        pieces = []
        for tokens, first, last, inside in zip(
            self._held(blocks), blocks, lasts.tolist(), insides, strict=True
        ):
            if first == last:  # nearly always
                found = self.block(first) if tokens is None else tokens
                pieces.append(found[inside : inside + length])
            else:
                pieces.append(self._join(first, inside, length))
        out[:] = np.concatenate(pieces).reshape(-1, length)

    def _touched(
        self, starts: NDArray[np.int64], length: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """First and last block (B,) of each row."""
        bounds = self.blocks.bounds
        firsts = np.searchsorted(bounds, starts, side="right") - 1
        ends, lasts = starts + (length - 1), firsts.copy()
        beyond = ends >= bounds[firsts + 1]  # few
        lasts[beyond] = np.searchsorted(bounds, ends[beyond], side="right") - 1
        return firsts, lasts

    def _join(self, block: int, inside: int, length: int) -> NDArray[Any]:
        """A row (length,) out of several blocks, one of them in memory at a time."""
        row, filled = np.empty(length, dtype=self.blocks.dtype), 0
        while filled < length:
            part = self.block(block)[inside : inside + length - filled]
            row[filled : filled + len(part)] = part
            filled, block, inside = filled + len(part), block + 1, 0
        return row

    def block(self, block: int) -> NDArray[Any]:
        """The tokens of a block, compared with its hash; read-only, to be copied from at once.

        Raises:
            BadBlock: it can't be read as it was written.
        """
        held = self._held([block])[0]
        if held is None:
            with self._locks[block % LOCKS]:  # one thread reads it, the others wait for that
                held = self._held([block])[0]
                if held is None:
                    held = self._keep(block, *self.blocks.read(block))
        return held

    def prefetch(self, starts: NDArray[np.int64], length: int) -> None:
        """Begin to read the blocks of rows that are wanted soon; returns before they are there.

        Waits while more than PREFETCH_BLOCKS are on their way. A bad block is not reported here
        but to whoever reads it.
        """
        firsts, lasts = self._touched(starts, length)
        reach = range(int((lasts - firsts).max(initial=0)) + 1)
        wanted = np.concatenate([(firsts + k)[firsts + k <= lasts] for k in reach])
        missing = wanted[~self._at_hand[wanted]]
        if len(missing) and self._pool is None:
            self._pool = ThreadPoolExecutor(PREFETCH_THREADS, thread_name_prefix="prefetch")
        for block in np.unique(missing).tolist():
            assert self._pool is not None
            self._waiting.acquire()
            self._pool.submit(self._fetch_ahead, block)

    def _fetch_ahead(self, block: int) -> None:
        try:
            self.block(block)
        except BadBlock:
            pass
        finally:
            self._waiting.release()


class BufferedReader(Reader):
    """Blocks in a cache of bounded size.

    Attributes:
        held_bytes: of the blocks in the cache, at most `cache_bytes` (but one block always fits).
    """

    def __init__(self, blocks: Blocks, cache_bytes: int) -> None:
        """`cache_bytes`: what the cache may hold."""
        super().__init__(blocks)
        self.held_bytes, self._cache_bytes = 0, cache_bytes
        self._cache: OrderedDict[int, NDArray[Any]] = OrderedDict()
        self._lock = threading.Lock()

    def _held(self, blocks: list[int]) -> list[NDArray[Any] | None]:
        with self._lock:
            for block in self._cache.keys() & blocks:
                self._cache.move_to_end(block)
            return [self._cache.get(block) for block in blocks]

    def _keep(self, block: int, tokens: NDArray[Any], opened: Opened) -> NDArray[Any]:
        # Blocks go back to the system whole. malloc keeps an arena for each thread that reads, and
        # what it holds grew by a quarter in 12 epochs.
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        kept = np.frombuffer(mmap.mmap(-1, tokens.nbytes, private), self.blocks.dtype)
        kept[:] = tokens
        kept.flags.writeable = False
        with self._lock:
            self._cache[block], self._at_hand[block] = kept, True
            self.held_bytes += kept.nbytes
            while self.held_bytes > self._cache_bytes and len(self._cache) > 1:
                oldest, gone = self._cache.popitem(last=False)
                self.held_bytes -= gone.nbytes
                self._at_hand[oldest] = False
        return kept


class MappedReader(Reader):
    """Blocks in mappings of their files, each compared once before its first use."""

    def __init__(self, blocks: Blocks) -> None:
        """Files are mapped when their first block is read."""
        super().__init__(blocks)
        self._maps: dict[Opened, mmap.mmap] = {}
        self._mapping = threading.Lock()
        # Of each compared block: its tokens in the mapping, and the mapping.
        self._views: dict[int, tuple[NDArray[Any], mmap.mmap]] = {}

    def _held(self, blocks: list[int]) -> list[NDArray[Any] | None]:
        found = [self._views.get(block) for block in blocks]
        # A file that was cut is never touched.
        cut = {view[1] for view in found if view is not None}
        cut = {mapped for mapped in cut if mapped.size() != len(mapped)}
        return [None if view is None or view[1] in cut else view[0] for view in found]

    def _keep(self, block: int, tokens: NDArray[Any], opened: Opened) -> NDArray[Any]:
        file, _, start, _ = self.blocks.locate(block)
        size = self.blocks.files[file].size
        if os.fstat(opened.descriptor).st_size != size:
            return tokens  # cut elsewhere; what was just read and compared is good
        with self._mapping:
            if (mapped := self._maps.get(opened)) is None:
                mapped = mmap.mmap(opened.descriptor, size, prot=mmap.PROT_READ)
                mapped.madvise(mmap.MADV_RANDOM)
                self._maps[opened] = mapped
        view = np.frombuffer(mapped, self.blocks.dtype, len(tokens), start)
        self._views[block], self._at_hand[block] = (view, mapped), True
        return view


def open_reader(
    blocks: Blocks, mapped_bytes: int | None = None, cache_bytes: int | None = None
) -> Reader:
    """Choose how a set is read.

    Args:
        blocks: of the set.
        mapped_bytes: map the set if it is on a local disk and not larger; None: MAPPED_SHARE of
            the memory.
        cache_bytes: of the cache of a set that is not mapped; None: CACHE_BLOCKS * BLOCK_BYTES.
    """
    budget = int(_memory_bytes() * MAPPED_SHARE) if mapped_bytes is None else mapped_bytes
    files = blocks.files
    fits = sum(file.size for file in files) <= budget and len(files) <= OPEN_FILES
    if fits and _is_local(files[0].path.parent):
        return MappedReader(blocks)
    return BufferedReader(
        blocks, CACHE_BLOCKS * BLOCK_BYTES if cache_bytes is None else cache_bytes
    )


def _memory_bytes() -> int:
    """Memory of the machine, or of the container if that is less."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return total


def _is_local(folder: Path) -> bool:
    """Whether a folder is on a local disk, as far as /proc tells."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return False
    mounts = [line.split() for line in lines]
    return any(m[2] == wanted and m[m.index("-") + 1] in LOCAL for m in mounts)
