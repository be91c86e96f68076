"""Whole shard sets on the disk, for tests of what reads them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data.shards import SHARD_TOKENS, Manifest, ShardEntry, Tokenized, write_manifest, write_shard


def write_shards(
    folder: Path,
    documents: Iterable[Tokenized],
    *,
    max_id: int,
    end_of_text: int,
    shard_tokens: int = SHARD_TOKENS,
    **about: Any,
) -> Manifest:
    """Write a whole set in this process; a shard is closed when it holds `shard_tokens`.

    Args:
        folder: where to write.
        documents: in the order of the stream; they are never cut.
        max_id: as for `write_shard`.
        end_of_text: as for `write_shard`.
        shard_tokens: of a shard, at least; the last one has fewer.
        **about: name, records, tokenizer and settings, as for `write_manifest`.

    Raises:
        DataError: as `write_shard` and `write_manifest`.
    """
    limits: dict[str, Any] = {"max_id": max_id, "end_of_text": end_of_text}
    entries: list[ShardEntry] = []
    waiting: list[Tokenized] = []
    size = 0
    for document in documents:
        waiting.append(document)
        size += len(document.ids)
        if size >= shard_tokens:
            entries.append(write_shard(folder, len(entries), waiting, **limits))
            waiting, size = [], 0
    if waiting:
        entries.append(write_shard(folder, len(entries), waiting, **limits))
    return write_manifest(folder, entries, **limits, **about)
