"""What stands in the folder of a shard set, and what makes its parts one thing.

- `shard-00000.arrow` ...: Arrow IPC streams of one record batch with one column, `input_ids`
  large_list<uint16 or uint32>; one row per document, its last token is end of text.
- `shard-00000.documents.arrow` ...: for each of these documents its digest, the place it came
  from, the bytes of its text and the token ranges to be trained on.
- `index.arrow`: one row per shard: sizes, sha256 of both files, where in them things are, a hash
  of each block of tokens, so that a range can be read and checked alone, and a sketch.
- `manifest.json`, written last: counts and the fingerprint of all of it.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import (
    DamagedData,
    DataError,
    fsync_folder,
    read_json,
    sha256_file,
    write_text_atomic,
)
from data.shards.blocks import HASH_BYTES, REMEDY

FORMAT_VERSION = 3


@dataclass(frozen=True)
class ShardEntry:
    """One row of the index: what a shard holds. `asdict` of it is JSON, and back by `**`."""

    file: str
    rows: int
    """Documents."""
    tokens: int
    text_bytes: int
    """UTF-8 bytes of the documents' text."""
    dtype: str
    """uint16 or uint32."""
    size: int
    """Bytes of the file."""
    sha256: str
    documents_file: str
    documents_size: int
    documents_sha256: str
    spans_sha256: str
    """Of the token ranges to be trained on; "" where that is all of every document."""
    ends_at: int
    """Byte of the Arrow list offsets, (rows + 1,) int64."""
    ends_hash: str
    """xxh3-64 of these offsets: they can be trusted without reading the tokens for the sha256."""
    values_at: int
    """Byte of the first token."""
    block_hashes: str
    """xxh3-64 of each HASH_BYTES of tokens, 16 hexadecimal digits each."""
    sketch: str
    """What the drift check knows of the shard, JSON or ""; not part of the fingerprint."""

    def hashes(self) -> NDArray[np.uint64]:
        """(blocks,): `block_hashes` as numbers."""
        return np.frombuffer(bytes.fromhex(self.block_hashes), dtype=">u8").astype(np.uint64)


@dataclass(frozen=True)
class Manifest:
    """What a shard set holds."""

    name: str
    """Name of the split: train or validation."""
    records: str
    """What a document is: text, conversations, preferences."""
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
    max_id: int
    """Largest id the tokenizer can make."""
    end_of_text: int
    """Id of the token that ends each document."""
    dtype: str
    """uint16 or uint32."""
    settings: dict[str, Any]
    """What else decided the content."""
    index_sha256: str
    """sha256 of index.arrow."""
    block_bytes: int
    """Bytes of tokens per hash."""
    format_version: int = FORMAT_VERSION


def token_type(max_id: int) -> np.dtype[Any]:
    """uint16 where all ids fit, else uint32."""
    return np.dtype(np.uint16 if max_id <= 0xFFFF else np.uint32)


def write_manifest(
    folder: Path,
    entries: Sequence[ShardEntry],
    *,
    name: str,
    records: str,
    tokenizer: str,
    max_id: int,
    end_of_text: int,
    settings: Mapping[str, Any],
) -> Manifest:
    """Make a set of shards 0, 1, ... that `write_shard` wrote into a folder: index, then manifest.

    `entries` are what `write_shard` returned, in order; the other arguments are fields of Manifest.

    Raises:
        DataError: there are no shards, one is missing or of another size or width.
    """
    import pyarrow as pa

    if not entries:
        raise DataError(f"{name}: there are no documents to write")
    dtype = token_type(max_id).name
    for number, entry in enumerate(entries):
        if (entry.file, entry.dtype) != (f"shard-{number:05d}.arrow", dtype):
            raise DataError(
                f"{folder}: entry {number} is {entry.file} of {entry.dtype}, expected "
                f"shard-{number:05d}.arrow of {dtype}; {REMEDY}"
            )
    _check_sizes(folder, entries)
    for left in folder.glob(".*.arrow.*-*"):
        left.unlink(missing_ok=True)
    columns = [
        pa.array(
            [getattr(entry, field.name) for entry in entries],
            pa.large_string() if field.type is str else pa.int64(),
        )
        for field in fields(ShardEntry)
    ]
    index = pa.record_batch(columns, names=[field.name for field in fields(ShardEntry)])
    write_arrow(folder / "index.arrow", index)
    facts: dict[str, Any] = {
        "name": name,
        "records": records,
        "documents": sum(entry.rows for entry in entries),
        "bytes": sum(entry.text_bytes for entry in entries),
        "tokens": sum(entry.tokens for entry in entries),
        "tokenizer": tokenizer,
        "max_id": max_id,
        "end_of_text": end_of_text,
        "dtype": dtype,
        "settings": json.loads(json.dumps(dict(settings))),
        "block_bytes": HASH_BYTES,
        "format_version": FORMAT_VERSION,
    }
    facts["fingerprint"] = _fingerprint(entries, facts)
    facts["index_sha256"] = sha256_file(folder / "index.arrow")
    write_text_atomic(folder / "manifest.json", json.dumps(facts, indent=1))
    return Manifest(**facts)


def write_arrow(path: Path, batch: Any) -> None:
    """Write one record batch as an IPC stream under a name of its own, then rename it."""
    import pyarrow as pa

    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as out:
            out.write_batch(batch)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        free = shutil.disk_usage(path.parent).free
        raise DataError(
            f"{path} can't be written ({os.strerror(error.errno) if error.errno else error}): it "
            f"needs {batch.nbytes:,} bytes and {free:,} are free there; make room and start again, "
            "what was finished stays"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_set(folder: Path) -> tuple[Manifest, list[ShardEntry]]:
    """Manifest and index of a published folder, after checking that the parts belong together.

    Raises:
        DamagedData: something is missing or torn; names file and remedy.
        DataError: another version wrote it.
    """
    manifest = _read_manifest(folder / "manifest.json")
    entries = _read_index(folder / "index.arrow", manifest)
    if _fingerprint(entries, asdict(manifest)) != manifest.fingerprint:
        raise DamagedData(
            f"{folder / 'manifest.json'} does not belong to the shards beside it "
            f"(its fingerprint differs); {REMEDY}"
        )
    _check_sizes(folder, entries)
    return manifest, entries


def _fingerprint(entries: Sequence[ShardEntry], manifest: Mapping[str, Any]) -> str:
    """The Merkle root: hashes of the parts and everything that gives them their meaning."""
    # Not the names of the sources: text that moves to another folder is the same text.
    parts = [[e.sha256, e.spans_sha256, e.rows, e.tokens] for e in entries]
    bound = {k: v for k, v in manifest.items() if k not in ("fingerprint", "index_sha256")}
    text = json.dumps([parts, bound], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_sizes(folder: Path, entries: Iterable[ShardEntry]) -> None:
    for entry in entries:
        files = ((entry.file, entry.size), (entry.documents_file, entry.documents_size))
        for name, size in files:
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes"
                raise DamagedData(f"{path} {state}, the index says {size} bytes; {REMEDY}")


def _read_manifest(path: Path) -> Manifest:
    try:
        if not path.is_file():
            raise DamagedData(f"{path} is missing: this is no finished shard set; {REMEDY}")
        content = read_json(path)
        version = content.get("format_version")
        if version == FORMAT_VERSION:
            return Manifest(**content)
    except DamagedData:
        raise
    except (DataError, TypeError, AttributeError) as error:
        raise DamagedData(f"{path} is damaged ({error}); {REMEDY}") from None
    raise DataError(
        f"{path} has format_version {version}, but {FORMAT_VERSION} is read here; {REMEDY}"
    )


def _read_index(path: Path, manifest: Manifest) -> list[ShardEntry]:
    import pyarrow as pa

    if not path.is_file():
        raise DamagedData(f"{path} is missing; {REMEDY}")
    if sha256_file(path) != manifest.index_sha256:
        raise DamagedData(
            f"{path} is damaged or stale: the manifest names another sha256; {REMEDY}"
        )
    with pa.OSFile(str(path)) as file:
        return [ShardEntry(**row) for row in pa.ipc.open_stream(file).read_all().to_pylist()]
