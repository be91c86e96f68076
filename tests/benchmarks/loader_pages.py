"""The page cache and what a process uses of device and memory, as Linux counts them."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np


def files_of(folder: Path) -> list[Path]:
    """All files of a set that aren't empty."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def drop_pages(folder: Path) -> None:
    """Drop a set from the page cache; RuntimeError if more than 1 % of it stays."""
    stay = total = 0
    for path in files_of(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                held = _held_pages(mapped)
        stay, total = stay + int(held.sum()), total + len(held)
    if stay > total / 100:
        raise RuntimeError(f"{stay} of {total} pages of {folder} are still in the page cache")


def bring_pages(folder: Path) -> None:
    """Read a set once."""
    for path in files_of(folder):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 23):
                pass


def device_bytes() -> int:
    """Bytes this process and its children had read from the device."""
    import psutil

    own = psutil.Process()
    return sum(p.io_counters().read_bytes for p in (own, *own.children(recursive=True)))


def memory_mib() -> tuple[float, float]:
    """Memory of this process: its own (anonymous), and pages of files it has mapped."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return sizes["Anonymous"], sizes["Rss"] - sizes["Anonymous"]


def _held_pages(mapped: mmap.mmap) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which pages (P,) of a mapping are in the page cache."""
    libc = ctypes.CDLL(None, use_errno=True)
    held = np.zeros(-(-len(mapped) // mmap.PAGESIZE), dtype=np.uint8)
    array = np.frombuffer(mapped, dtype=np.uint8)
    address, length = ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(len(array))
    if libc.mincore(address, length, ctypes.c_void_p(held.ctypes.data)):
        raise OSError(ctypes.get_errno(), "mincore")
    return (held & 1).astype(np.bool_)
