"""Writing shards: documents in, checked Arrow files and their index entries out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError, json_sha256, sha256_file
from data.shards.blocks import HASH_BYTES
from data.shards.manifest import ShardEntry, token_type, write_arrow

SHARD_TOKENS = 1 << 26  # 128 MiB of uint16; a writer holds one shard in memory


@dataclass(frozen=True)
class Tokenized:
    """A document ready to be stored."""

    ids: NDArray[Any]
    """(tokens,) integers; end of text last."""
    digest: bytes
    """blake2b-128 of the UTF-8 text."""
    place: str
    """File and row of the source it came from."""
    text_bytes: int
    """UTF-8 bytes of the text."""
    spans: tuple[tuple[int, int], ...] = ()
    """Token ranges [start, stop) to be trained on; (): all of it."""


def write_shard(
    folder: Path,
    number: int,
    documents: Sequence[Tokenized],
    *,
    max_id: int,
    end_of_text: int,
    sketch: str = "",
) -> ShardEntry:
    """Write shard `number` of a set; the same documents give the same files and entry.

    Files get their names when they are whole and on the disk. A writer that is killed leaves files
    whose names begin with a dot, which `write_manifest` removes; doing it again is safe at any
    time, also while another process does it.

    Args:
        folder: of the set; made if it is missing.
        number: place of the shard in the set, from 0.
        documents: at least one.
        max_id: largest id the tokenizer can make; it decides the width of a token.
        end_of_text: id at the end of each document.
        sketch: goes into the index.

    Raises:
        DataError: a document is empty, doesn't end with end of text, or holds an id outside
            0..max_id or a span outside itself; or the disk is full.
    """
    import pyarrow as pa
    import xxhash

    name = f"shard-{number:05d}"
    ends, values = _checked(name, documents, max_id, end_of_text)
    rows = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(values))
    path, about = folder / f"{name}.arrow", folder / f"{name}.documents.arrow"
    folder.mkdir(parents=True, exist_ok=True)
    write_arrow(about, _about(documents))
    write_arrow(path, pa.record_batch([rows], names=["input_ids"]))
    with pa.memory_map(str(path)) as mapped:
        file = mapped.read_buffer()
        column = pa.ipc.open_stream(pa.BufferReader(file)).read_next_batch().column(0)
        ends_at = column.buffers()[1].address - file.address
        values_at = column.values.buffers()[1].address - file.address
    raw = values.data.cast("B")
    blocks = (raw[start : start + HASH_BYTES] for start in range(0, len(raw), HASH_BYTES))
    return ShardEntry(
        file=path.name,
        rows=len(documents),
        tokens=len(values),
        text_bytes=sum(document.text_bytes for document in documents),
        dtype=values.dtype.name,
        size=path.stat().st_size,
        sha256=sha256_file(path),
        documents_file=about.name,
        documents_size=about.stat().st_size,
        documents_sha256=sha256_file(about),
        spans_sha256=_spans_sha256(documents),
        ends_at=ends_at,
        ends_hash=xxhash.xxh3_64_hexdigest(ends.data),
        values_at=values_at,
        block_hashes="".join(xxhash.xxh3_64_hexdigest(block) for block in blocks),
        sketch=sketch,
    )


def _checked(
    name: str, documents: Sequence[Tokenized], max_id: int, end_of_text: int
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Ends (rows + 1,) and ids of all documents in the width of the set."""
    if not documents:
        raise DataError(f"{name}: there are no documents to write")
    for document in documents:
        ids, where = document.ids, f"{name}: the document from {document.place or 'nowhere'}"
        if not len(ids) or ids[-1] != end_of_text:
            raise DataError(f"{where} doesn't end with end of text {end_of_text}")
        if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() > max_id:
            found = f"{ids.dtype} ids {ids.min()}..{ids.max()}"
            raise DataError(
                f"{where} holds {found}, outside 0..{max_id}: they are another tokenizer's"
            )
        if any(not 0 <= start < stop <= len(ids) for start, stop in document.spans):
            raise DataError(f"{where} has spans {document.spans} outside 0..{len(ids)}")
    ends = np.cumsum([0, *(len(document.ids) for document in documents)], dtype=np.int64)
    width = token_type(max_id)
    values = np.concatenate([document.ids.astype(width, copy=False) for document in documents])
    return ends, values


def _spans_sha256(documents: Sequence[Tokenized]) -> str:
    if not any(document.spans for document in documents):
        return ""
    spans = [[list(span) for span in document.spans] for document in documents]
    return json_sha256(spans)


def _about(documents: Sequence[Tokenized]) -> Any:
    """The record batch of what is known of documents besides their tokens."""
    import pyarrow as pa

    span = pa.struct([("start", pa.int64()), ("stop", pa.int64())])
    spans = [[dict(zip(("start", "stop"), s, strict=True)) for s in d.spans] for d in documents]
    columns = {
        "digest": pa.array([document.digest for document in documents], pa.binary(16)),
        "place": pa.array([document.place for document in documents], pa.large_string()),
        "text_bytes": pa.array([document.text_bytes for document in documents], pa.int64()),
        "spans": pa.array(spans, pa.list_(span)),
    }
    return pa.record_batch(list(columns.values()), names=list(columns))
