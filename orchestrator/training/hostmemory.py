"""What the C library does with freed host memory: kept for the next step, or given back."""

import contextlib
import ctypes
import gc
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
MUCH = 10_000_000  # parameters, 40 MB, for which 0.2 s are spent on looking through all objects


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of giving them back to the kernel.

    Logits and activations are allocated anew in every step; by default glibc maps and unmaps each
    one, and the page faults took 10 to 25% of a step on a CPU (measured: bf16, fp32, 1 thread).
    What is kept fits the next tensor of its size only if the process began without glibc's cache of
    small blocks, as workers do (cluster/connection/starting.py).
    """
    _set(mmap_threshold=1 << 30, trim_threshold=(1 << 31) - 1)


@contextlib.contextmanager
def giving_back_freed_memory(parameters: int) -> Iterator[None]:
    """While a model is made, give back each block that is freed; keep them again afterwards.

    Thousands of whole parameters are made, cut and freed. glibc finds no use for the holes they
    leave, because tensors are aligned: they took another 2/3 of a model of 100 million parameters.

    Args:
        parameters: of the model. What is left of many in circles of objects is freed, too.
    """
    _set(mmap_threshold=1 << 20, trim_threshold=1 << 20)
    try:
        yield
    finally:
        if parameters >= MUCH:
            gc.collect()
        keep_freed_memory()


def _set(*, mmap_threshold: int, trim_threshold: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, mmap_threshold)
        libc.mallopt(M_TRIM_THRESHOLD, trim_threshold)
