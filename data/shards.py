"""Tokens on disk: Arrow files that any Arrow reader opens, checked block by block as they are read.

A shard set is a folder:
- `shard-00000.arrow` ...: Arrow IPC streams of one record batch with one column, `input_ids`
  large_list<uint16 or uint32>; one row per document, its last token is end of text.
- `index.arrow`: one row per shard with its size, sha256, the place of the token values in it and
  an xxh3-64 hash of each block of them, so that a range can be read and checked alone.
- `manifest.json`: counts and the fingerprint of all of it.
Laid end to end, the values of all shards are the token stream.
"""

import bisect
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, sha256_file, write_text_atomic

FORMAT_VERSION = 1
SHARD_TOKENS = 1 << 26  # 128 MiB of uint16; a writer holds one shard in memory
BLOCK_BYTES = 1 << 20  # the unit of checking and of cold reads
CACHE_BLOCKS = 256  # blocks a reader keeps, 256 MiB
REMEDY = "delete the folder and prepare the data again"


@dataclass(frozen=True)
class Manifest:
    """What a shard set holds."""

    name: str
    """Name of the split: train or validation."""
    fingerprint: str
    """sha256 over the shards' hashes, rows and tokens, the tokenizer, settings and format."""
    documents: int
    """Documents (rows)."""
    bytes: int
    """UTF-8 bytes of the documents' text, without separators."""
    tokens: int
    """Tokens, one end of text per document included."""
    tokenizer: str
    """Fingerprint of the tokenizer."""
    end_of_text: int
    """Id of the token that ends each document."""
    dtype: str
    """uint16 or uint32."""
    settings: dict[str, Any]
    """What else decided the content."""
    index_sha256: str
    """sha256 of index.arrow."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class _Shard:
    """One row of the index."""

    file: str
    rows: int
    tokens: int
    sha256: str
    size: int  # bytes of the file
    offset: int  # of the first token value in the file, bytes
    block_hashes: list[int]


def _fingerprint(shards: list[_Shard], manifest: Mapping[str, Any]) -> str:
    """The Merkle root: hashes of the parts and everything that gives them their meaning."""
    parts = [[shard.sha256, shard.rows, shard.tokens] for shard in shards]
    bound = {k: v for k, v in manifest.items() if k not in ("fingerprint", "index_sha256")}
    text = json.dumps([parts, bound], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_shards(
    folder: Path,
    documents: Iterable[NDArray[np.int64]],
    *,
    name: str,
    text_bytes: int,
    max_id: int,
    end_of_text: int,
    tokenizer: str,
    settings: dict[str, Any],
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Write a shard set into an empty or new folder, which the caller publishes by renaming it.

    Args:
        folder: where to write.
        documents: token ids of each document, end of text last.
        name: of the split.
        text_bytes: UTF-8 bytes of the documents.
        max_id: largest id the tokenizer can make; it decides the width of a token.
        end_of_text: id at the end of each document.
        tokenizer: its fingerprint.
        settings: anything else the content depends on; it goes into the fingerprint.
        shard_tokens: a shard is closed when it holds this many; documents are never cut.

    Raises:
        DataError: a document is empty, doesn't end with end of text or holds an id > max_id.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype(np.uint16 if max_id <= 0xFFFF else np.uint32)
    shards: list[_Shard] = []
    waiting: list[NDArray[Any]] = []
    size = 0
    for number, ids in enumerate(documents):
        if not len(ids) or ids[-1] != end_of_text:
            raise DataError(f"{name} document {number} doesn't end with end of text {end_of_text}")
        if ids.min() < 0 or ids.max() > max_id:
            raise DataError(
                f"{name} document {number} holds ids {ids.min()}..{ids.max()}, outside 0..{max_id}"
            )
        waiting.append(ids.astype(dtype))
        size += len(ids)
        if size >= shard_tokens:
            shards.append(_write_shard(folder, len(shards), waiting))
            waiting, size = [], 0
    if waiting:
        shards.append(_write_shard(folder, len(shards), waiting))
    if not shards:
        raise DataError(f"{name}: there are no documents to write")
    facts: dict[str, Any] = {
        "name": name,
        "documents": sum(shard.rows for shard in shards),
        "bytes": text_bytes,
        "tokens": sum(shard.tokens for shard in shards),
        "tokenizer": tokenizer,
        "end_of_text": end_of_text,
        "dtype": dtype.name,
        "settings": settings,
        "format_version": FORMAT_VERSION,
    }
    facts["fingerprint"] = _fingerprint(shards, facts)
    facts["index_sha256"] = _write_index(folder / "index.arrow", shards)
    manifest = Manifest(**facts)
    write_text_atomic(folder / "manifest.json", json.dumps(asdict(manifest), indent=1))
    return manifest


def _write_shard(folder: Path, number: int, documents: list[NDArray[Any]]) -> _Shard:
    import pyarrow as pa

    path = folder / f"shard-{number:05d}.arrow"
    ends = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    values = np.concatenate(documents)
    rows = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(values))
    batch = pa.record_batch([rows], names=["input_ids"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with pa.memory_map(str(path)) as mapped:
        file = mapped.read_buffer()
        column = pa.ipc.open_stream(pa.BufferReader(file)).read_next_batch().column(0)
        offset = column.values.buffers()[1].address - file.address
    return _Shard(
        file=path.name,
        rows=len(documents),
        tokens=len(values),
        sha256=sha256_file(path),
        size=path.stat().st_size,
        offset=offset,
        block_hashes=_block_hashes(values.data.cast("B")),
    )


def _block_hashes(values: memoryview) -> list[int]:
    import xxhash

    starts = range(0, len(values), BLOCK_BYTES)
    return [xxhash.xxh3_64_intdigest(values[start : start + BLOCK_BYTES]) for start in starts]


def _write_index(path: Path, shards: list[_Shard]) -> str:
    """Write the index; returns its sha256."""
    import pyarrow as pa

    types = {"block_hashes": pa.large_list(pa.uint64()), "file": pa.string(), "sha256": pa.string()}
    names = [field.name for field in fields(_Shard)]
    columns = [
        pa.array([getattr(shard, name) for shard in shards], types.get(name, pa.int64()))
        for name in names
    ]
    table = pa.table(columns, names=names)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sha256_file(path)


class ShardSet:
    """A published shard set, read by token range.

    Attributes:
        manifest: counts and fingerprint.
        folder: where it stands.
    """

    def __init__(self, folder: Path, manifest: Manifest, shards: list[_Shard], cache: int) -> None:
        """Use `open`, which checks that the parts belong together."""
        import xxhash

        self.folder, self.manifest = folder, manifest
        self.dtype = np.dtype(manifest.dtype)
        self._shards = shards
        self._starts = [0]  # position in the stream of each shard's first token
        for shard in shards:
            self._starts.append(self._starts[-1] + shard.tokens)
        self._block_tokens = BLOCK_BYTES // self.dtype.itemsize
        self._hash = xxhash.xxh3_64_intdigest
        self._block = lru_cache(maxsize=cache)(self._read_block)  # thread-safe

    @staticmethod
    def open(folder: Path, cache_blocks: int = CACHE_BLOCKS) -> "ShardSet":
        """Open a folder after checking manifest, index and file sizes (not the contents: `read`).

        Raises:
            DataError: something is missing, torn or from another version; names file and remedy.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder / "manifest.json")
        shards = _read_index(folder / "index.arrow", manifest)
        if _fingerprint(shards, asdict(manifest)) != manifest.fingerprint:
            raise DataError(
                f"{folder / 'manifest.json'} does not belong to the shards beside it "
                f"(its fingerprint differs); {REMEDY}"
            )
        for shard in shards:
            path = folder / shard.file
            found = path.stat().st_size if path.is_file() else None
            if found != shard.size:
                state = "is missing" if found is None else f"has {found} bytes"
                raise DataError(f"{path} {state}, the index says {shard.size} bytes; {REMEDY}")
        return ShardSet(folder, manifest, shards, cache_blocks)

    @property
    def tokens(self) -> int:
        """Tokens in the stream."""
        return self.manifest.tokens

    @property
    def fingerprint(self) -> str:
        """Identity of the content."""
        return self.manifest.fingerprint

    def __len__(self) -> int:
        """Tokens in the stream."""
        return self.manifest.tokens

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Tokens start..stop of the stream, (stop - start,), read-only, uint16 or uint32.

        Raises:
            DataError: a block on the disk is not what was written.
            IndexError: the range is not inside the stream.
        """
        if not 0 <= start <= stop <= self._starts[-1]:
            raise IndexError(f"tokens {start}..{stop} are not inside 0..{self._starts[-1]}")
        if start == stop:
            return np.empty(0, self.dtype)
        shard = bisect.bisect_right(self._starts, start) - 1
        number, inside = divmod(start - self._starts[shard], self._block_tokens)
        size = stop - start
        if inside + size <= self._block_tokens and stop <= self._starts[shard + 1]:
            return self._block(shard, number)[inside : inside + size]  # nearly every read
        parts = []
        while start < stop:
            part = self._block(shard, number)[inside:][: stop - start]
            parts.append(part)
            start += len(part)
            number, inside = number + 1, 0
            if start == self._starts[shard + 1]:
                shard, number = shard + 1, 0
        return np.concatenate(parts)

    def verify(self) -> None:
        """Read every shard whole and compare its sha256.

        Raises:
            DataError: a shard differs.
        """
        for shard in self._shards:
            path = self.folder / shard.file
            if not path.is_file() or sha256_file(path) != shard.sha256:
                raise DataError(f"{path} is missing or not what was written (sha256); {REMEDY}")

    def _read_block(self, shard: int, number: int) -> NDArray[Any]:
        # pread, not mmap: a mapping of a cold file reads ~65 times the useful bytes, and a file
        # that is cut under a mapping kills the process with SIGBUS instead of raising.
        entry = self._shards[shard]
        path = self.folder / entry.file
        begin = number * BLOCK_BYTES
        wanted = min(BLOCK_BYTES, entry.tokens * self.dtype.itemsize - begin)
        with path.open("rb", buffering=0) as file:
            raw = _pread(file.fileno(), wanted, entry.offset + begin)
        if self._hash(raw) != entry.block_hashes[number]:
            what = "is torn" if len(raw) < wanted else "is not what was written"
            raise DataError(
                f"{path} {what} at bytes {entry.offset + begin}.."
                f"{entry.offset + begin + wanted} (block hash); {REMEDY}"
            )
        return np.frombuffer(raw, dtype=self.dtype)


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    """`size` bytes at `offset`, fewer at the end of the file."""
    parts: list[bytes] = []
    while size and (part := os.pread(descriptor, size, offset)):
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_manifest(path: Path) -> Manifest:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} has format_version {version}, but {FORMAT_VERSION} is read here; {REMEDY}"
            )
        return Manifest(**content)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: this is no finished shard set; {REMEDY}") from None
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is damaged ({error}); {REMEDY}") from None


def _read_index(path: Path, manifest: Manifest) -> list[_Shard]:
    import pyarrow as pa

    if not path.is_file():
        raise DataError(f"{path} is missing; {REMEDY}")
    if sha256_file(path) != manifest.index_sha256:
        raise DataError(f"{path} is damaged or stale: the manifest names another sha256; {REMEDY}")
    with pa.OSFile(str(path)) as file:
        rows = pa.ipc.open_stream(file).read_all().to_pylist()
    shards = [_Shard(**row) for row in rows]
    if sum(shard.tokens for shard in shards) != manifest.tokens:
        raise DataError(f"{path} and manifest.json disagree on the number of tokens; {REMEDY}")
    return shards
