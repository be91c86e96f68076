"""What is in the files of a checkpoint: the hash of their bytes, and whether numbers are finite."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

CHUNK_BYTES = 1 << 20


def all_finite(data: memoryview) -> bool:
    """Whether some fp32 numbers hold neither NaN nor infinity."""
    values = np.frombuffer(data, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum()
    # A sum is quick and needs no memory; it may overflow, hence the second look.
    return bool(np.isfinite(total) or np.isfinite(values).all())


def look(path: Path) -> tuple[str, bool]:
    """Hex sha256 of a file, and whether its numbers are finite; it is read once.

    Only the numbers of a safetensors file of fp32 are looked at.
    """
    with path.open("rb") as file:
        return look_at(file, path.stat().st_size, numbers=path.suffix == ".safetensors")


def look_at(file: Any, size: int, *, numbers: bool) -> tuple[str, bool]:
    """As `look`, of an open file of so many bytes, which may be a safetensors file or not."""
    digest, finite = hashlib.sha256(), True
    buffer = memoryview(bytearray(CHUNK_BYTES))
    if numbers:
        start = file.read(8)
        head = file.read(min(int.from_bytes(start, "little"), size))
        digest.update(start + head)
        numbers = _is_fp32(head)
    while count := file.readinto(buffer):
        digest.update(buffer[:count])
        finite = finite and (not numbers or all_finite(buffer[: count - count % 4]))
    return digest.hexdigest(), finite


def _is_fp32(head: bytes) -> bool:
    try:
        entries = json.loads(head)
        own = [entry for name, entry in entries.items() if name != "__metadata__"]
        return all(entry["dtype"] == "F32" for entry in own)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False  # no safetensors file, which its hash will tell
