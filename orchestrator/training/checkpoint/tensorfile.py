"""safetensors files of fp32 tensors, written front to back and read by ranges.

The library of that name writes whole dictionaries and maps whole files. A checkpoint is written
from tensors that come one at a time, hashed on their way to the disk, and read a few elements at
a time. The format is 8 bytes with the length of a JSON header, the header, and the tensors end to
end: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import math
import os
import struct
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from data.files import naming
from orchestrator.record.checkpoints.manifest import FileRecord

CHUNK = 1 << 20
"""Elements on their way to the disk at once: 4 MiB, which stay in a core's cache meanwhile."""
LAG = 16
"""Chunks of a file that may wait to be hashed, where copies of a GPU's stay in memory: 64 MiB."""
ITEM = 4
"""Bytes of an element."""


class TensorFileError(ValueError):
    """A file that is no safetensors file of fp32 tensors."""


class HashedFile:
    """A new file that is hashed while it is written; on the disk once the block has ended.

    The processor hashes and the disk flushes at the same time, each in a thread of its own: both
    take about as long as handing the bytes to the kernel takes, or longer. The hash may lag behind,
    so that those of several files, which are written in turns, are made at the same time.
    """

    def __init__(self, path: Path) -> None:
        """Create the file; what a killed writer left under its name is removed, not written to."""
        path.unlink(missing_ok=True)
        self._path = path
        self._file = path.open("xb", buffering=0)
        self._sha256 = hashlib.sha256()
        self._bytes = 0
        self._hasher, self._flusher = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._hashing: deque[Future[None]] = deque()
        self._flushing = self._flusher.submit(lambda: None)

    def write(
        self, data: bytes | memoryview, check: Callable[[memoryview], None] | None = None
    ) -> None:
        """Append; the buffer must stay as it is until the end of the block.

        What `check`, called beside the hashing, has to say against the data is raised by a later
        call, or at the end.
        """
        while len(self._hashing) >= LAG or (self._hashing and self._hashing[0].done()):
            self._hashing.popleft().result()
        self._hashing.append(self._hasher.submit(self._hash, memoryview(data), check))
        left = memoryview(data)
        with naming(self._path):
            while left:
                left = left[self._file.write(left) :]
            if self._flushing.done():
                self._flushing.result()
                self._flushing = self._flusher.submit(os.fdatasync, self._file.fileno())
        self._bytes += len(data)

    def _hash(self, data: memoryview, check: Callable[[memoryview], None] | None) -> None:
        if check is not None:
            check(data)
        self._sha256.update(data)

    @property
    def record(self) -> FileRecord:
        """Size and hash; after the block."""
        return FileRecord(self._bytes, self._sha256.hexdigest())

    def __enter__(self) -> Self:
        """The file itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush to the disk, unless something went wrong, and close."""
        with naming(self._path), self._file, self._hasher, self._flusher:
            if error is None:
                for hashed in self._hashing:
                    hashed.result()
                self._flushing.result()
                os.fsync(self._file.fileno())


class TensorWriter(HashedFile):
    """A new safetensors file. Its tensors are named at the start and come in that order."""

    def __init__(
        self,
        path: Path,
        shapes: Mapping[str, Sequence[int]],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Create the file; `metadata` is for whoever looks for some in it."""
        super().__init__(path)
        entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
        end = 0
        for name, shape in shapes.items():
            start, end = end, end + ITEM * math.prod(shape)
            entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
        header = json.dumps(entries, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)  # the tensors begin at a multiple of 8
        self._header = struct.pack("<Q", len(header)) + header

    def __enter__(self) -> Self:
        """Write the header; the file is closed if that fails."""
        with ExitStack() as closing:
            closing.push(self)
            self.write(self._header)
            closing.pop_all()
        return self

    def write_tensor(
        self, tensor: Tensor, check: Callable[[memoryview], None] | None = None
    ) -> None:
        """Append a tensor (fp32, on any device); a chunk of it at a time is on the CPU."""
        flat = tensor.detach().reshape(-1)
        for start in range(0, len(flat), CHUNK):
            self.write(_bytes(flat[start : start + CHUNK].cpu()), check)


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is in its file."""

    shape: tuple[int, ...]
    offset: int
    """In bytes, from the start of the file."""
    dtype: str = "F32"


DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
}
"""Kinds of numbers that weights of others may be stored as."""


def read_header(path: Path, dtypes: Collection[str] = ("F32",)) -> dict[str, StoredTensor]:
    """The tensors of a file, whose numbers are of some `dtypes`.

    Raises TensorFileError, or OSError if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is longer than the file")
            entries = json.loads(file.read(length))
            entries.pop("__metadata__", None)
            for name, entry in entries.items():
                if entry["dtype"] not in dtypes:
                    raise TensorFileError(
                        f"{path}: {name} is {entry['dtype']}, only {', '.join(dtypes)} is read; "
                        "convert the file"
                    )
            return {
                name: StoredTensor(
                    tuple(entry["shape"]), 8 + length + entry["data_offsets"][0], entry["dtype"]
                )
                for name, entry in entries.items()
            }
    except TensorFileError:
        raise
    except (ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        raise TensorFileError(f"{path} is not a safetensors file: {error}") from None


def read_elements(path: Path, stored: StoredTensor, start: int, out: Tensor) -> None:
    """Fill `out` (1-D, on the CPU, of the kind stored) with a tensor from element `start` on."""
    view = _bytes(out)
    offset = stored.offset + out.itemsize * start
    with path.open("rb", buffering=0) as file:
        while view:
            count = os.preadv(file.fileno(), [view], offset)
            if count == 0:
                raise TensorFileError(f"{path} ends at byte {offset}, inside a tensor")
            view, offset = view[count:], offset + count


def read_numbers(path: Path, stored: StoredTensor, start: int, count: int) -> Tensor:
    """So many elements of a stored tensor from `start` on, fp32, on the CPU, however stored."""
    out = torch.empty(count, dtype=DTYPES[stored.dtype])
    read_elements(path, stored, start, out)
    return out.float()


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a tensor on the CPU."""
    array: Any = tensor.view(torch.uint8).numpy()  # numpy knows no bf16
    return memoryview(array).cast("B")
