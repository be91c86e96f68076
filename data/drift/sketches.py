"""Sketches of documents: a few KB per shard that say what its text and tokens look like.

All counts are kept per group of documents (GROUPS groups, by content hash), so that a comparison
can tell chance from change by whole documents and not by single tokens, which repeat within one.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError
from data.tokenizer import Tokenizer

VERSION = 2
GROUPS = 8  # more would tell the noise better and make the sketch larger
BUCKETS = 64  # hashed token ids
TOP = 24  # ids that are counted under their own name
LANGUAGE_BYTES = 1 << 14  # one language guess per so much text: 2 % of the time of tokenization
# Half octaves 1, 2 (1.4 rounds up), 2, 3, 4, 6, 8 ... 2^24: bin i holds edges[i-1] <= length.
EDGES = np.unique(np.ceil(2.0 ** (np.arange(49) / 2))).astype(np.int64)
SIZES = ("documents", "tokens", "bytes")
WIDTHS = {
    "sizes": len(SIZES),
    "token_lengths": len(EDGES) + 1,
    "byte_lengths": len(EDGES) + 1,
    "tokens": BUCKETS,
}
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Sketch:
    """The documents of one shard."""

    counts: Mapping[str, Counts]
    """WIDTHS -> (GROUPS, width)."""
    languages: Mapping[str, tuple[int, ...]]
    """Language -> sampled documents per group; a byte of text is as likely as another."""
    top: Mapping[int, tuple[int, str]]
    """Frequent token ids -> count, text."""
    tokenizer: str
    """Fingerprint."""

    def size(self, name: str) -> int:
        """One of SIZES over all groups."""
        return int(self.counts["sizes"][:, SIZES.index(name)].sum())

    def to_json(self) -> str:
        """For the index of a shard set; rows without their zeros at the end."""
        content = {
            "version": VERSION,
            "tokenizer": self.tokenizer,
            "counts": {
                name: [np.trim_zeros(row, "b").tolist() for row in rows]
                for name, rows in self.counts.items()
            },
            "languages": self.languages,
            "top": [[i, count, text] for i, (count, text) in self.top.items()],
        }
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> "Sketch":
        """Inverse of `to_json`.

        Raises:
            DataError: there is none, or it is of another version.
        """
        content = json.loads(text or "{}")
        if content.get("version") != VERSION:
            raise DataError(
                "a shard has no sketch of this release, so drift can't be told; prepare that data "
                "again (the same settings give the same shards)"
            )
        counts = {}
        for name, width in WIDTHS.items():
            rows = [row + [0] * (width - len(row)) for row in content["counts"][name]]
            counts[name] = np.array(rows, dtype=np.int64)
        return Sketch(
            counts,
            {name: tuple(groups) for name, groups in content["languages"].items()},
            {i: (count, text) for i, count, text in content["top"]},
            content["tokenizer"],
        )


def sketch_documents(
    ids: Sequence[NDArray[Any]],
    text_bytes: Sequence[int],
    digests: Sequence[bytes],
    tokenizer: Tokenizer,
    identify: Callable[[int], str],
) -> Sketch:
    """Sketch the documents of one shard, at least one.

    Args:
        ids: token ids of each document, with or without end of text, which is not counted.
        text_bytes: of each.
        digests: 16 bytes of hash of each text; they also decide groups and samples.
        tokenizer: that made the ids.
        identify: gives the language of the document with a number.
    """
    raw = np.frombuffer(b"".join(digests), np.uint8).reshape(len(ids), 16)
    group = raw[:, 15].astype(np.int64) % GROUPS
    sizes = np.array(text_bytes, dtype=np.int64)
    ended = [len(one) > 0 and int(one[-1]) == tokenizer.end_of_text for one in ids]
    lengths = np.array([len(one) for one in ids], dtype=np.int64) - ended
    words = _per_group(ids, group, tokenizer.vocab_size)  # (GROUPS, V)
    words[:, tokenizer.end_of_text] = 0
    in_bytes = np.bincount(group, sizes, minlength=GROUPS).astype(np.int64)
    counts = {
        "sizes": np.stack([np.bincount(group, minlength=GROUPS), words.sum(1), in_bytes], axis=1),
        "token_lengths": _length_bins(lengths, group),
        "byte_lengths": _length_bins(sizes, group),
        "tokens": _buckets(words),
    }
    chance = np.minimum(sizes / LANGUAGE_BYTES, 1)
    chosen = np.flatnonzero(raw[:, 8:].copy().view(">u8")[:, 0] < chance * 2.0**64)
    languages: dict[str, list[int]] = {}
    for i in chosen.tolist():
        name = identify(i)
        languages.setdefault(name, [0] * GROUPS)[int(group[i])] += 1
    return Sketch(
        counts,
        {name: tuple(languages[name]) for name in sorted(languages)},
        _top(words.sum(0), tokenizer),
        tokenizer.fingerprint,
    )


def _per_group(ids: Sequence[NDArray[Any]], group: NDArray[Any], width: int) -> Counts:
    """Occurrences of each id in each group, (GROUPS, width)."""
    parts: list[list[NDArray[Any]]] = [[] for _ in range(GROUPS)]
    for one, g in zip(ids, group.tolist(), strict=True):
        parts[g].append(one)
    empty = np.empty(0, dtype=np.int64)
    return np.stack([np.bincount(np.concatenate(p or [empty]), minlength=width) for p in parts])


def _length_bins(lengths: Counts, group: NDArray[Any]) -> Counts:
    width = len(EDGES) + 1
    bins = np.searchsorted(EDGES, lengths, side="right")
    return np.bincount(group * width + bins, minlength=GROUPS * width).reshape(GROUPS, width)


def _buckets(words: Counts) -> Counts:
    """Counts of ids (GROUPS, V) -> of hashed ids (GROUPS, BUCKETS); Fibonacci hashing."""
    ids = np.arange(words.shape[1], dtype=np.uint64)
    bucket = ((ids * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(58)).astype(np.int64)
    rows = [np.bincount(bucket, row, minlength=BUCKETS) for row in words]
    return np.stack(rows).astype(np.int64)


def _top(words: Counts, tokenizer: Tokenizer) -> dict[int, tuple[int, str]]:
    """The most frequent ids; ties by id."""
    order = np.argsort(-words, kind="stable")[:TOP]
    return {i: (int(words[i]), tokenizer.decode([i])) for i in sorted(order.tolist()) if words[i]}
