"""Sketches of documents: a few KB per shard that say what its text and tokens look like.

All counts are kept per group of documents (GROUPS groups, by content hash), so that a gate can
resample whole documents' worth of tokens and not single tokens, which repeat within a document.
Merging sketches adds counts: it is associative, commutative and exact, save that `top` of a merged
sketch counts an id only in the shards where it was among the most frequent.
"""

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.drift.distinct import Distinct
from data.drift.token_facts import TokenFacts
from data.files import DataError

VERSION = 1
GROUPS = 8  # units of resampling; more would tell the noise better and make the sketch larger
BUCKETS = 64  # hashed token ids
TOP = 24  # ids that are counted under their own name
LANGUAGE_BYTES = 1 << 14  # one language guess per so much text: 2 % of the time of tokenization
LANGUAGE_CHARACTERS = 300
CHUNK_BYTES = 1 << 20
# Half octaves 1, 2 (1.4 rounds up), 2, 3, 4, 6, 8 ... 2^24: bin i holds edges[i-1] <= length.
EDGES = np.unique(np.ceil(2.0 ** (np.arange(49) / 2))).astype(np.int64)
SIZES = ("documents", "tokens", "bytes", "fallback", "duplicates")
# Classes by the first byte of a character in UTF-8; continuation bytes are not characters.
_CLASSES: tuple[tuple[str, Sequence[int]], ...] = (
    ("punctuation", range(0x21, 0x7F)),
    ("lower case", range(0x61, 0x7B)),
    ("upper case", range(0x41, 0x5B)),
    ("digits", range(0x30, 0x3A)),
    ("spaces", (0x20, 0x09)),
    ("newlines", (0x0A,)),
    ("control", (*range(9), *range(0x0B, 0x20), 0x7F)),
    ("Latin-1", (0xC2, 0xC3)),
    ("Latin extended", range(0xC4, 0xCE)),
    ("Greek", (0xCE, 0xCF)),
    ("Cyrillic", range(0xD0, 0xD5)),
    ("Hebrew", (0xD6, 0xD7)),
    ("Arabic", range(0xD8, 0xDC)),
    ("Indic and Thai", (0xE0,)),
    ("symbols", (0xE1, 0xE2)),
    ("Chinese and Japanese", range(0xE3, 0xEA)),
    ("Korean", range(0xEA, 0xEE)),
    ("U+FFFD and rare", (0xDC, 0xDD, 0xDE, 0xDF, 0xEE, 0xEF)),
    ("emoji and rare", range(0xF0, 0xF5)),
)
CLASSES = tuple(name for name, _ in _CLASSES)
_CLASS_OF = np.full(256, len(CLASSES))
for _number, (_, _firsts) in enumerate(_CLASSES):
    _CLASS_OF[list(_firsts)] = _number
Counts = NDArray[np.int64]


def language_identifier() -> Callable[[str], str] | None:
    """py3langid's guess (ISO 639-1) for a text; None if it is not installed."""
    if importlib.util.find_spec("py3langid") is None:
        return None
    classify = importlib.import_module("py3langid").classify
    return lambda text: str(classify(text)[0])


@dataclass(frozen=True)
class Sketch:
    """The documents of one shard, or of several."""

    counts: Mapping[str, Counts]
    """sizes (GROUPS, 5: SIZES), token_lengths and byte_lengths (GROUPS, len(EDGES) + 1), tokens
    (GROUPS, BUCKETS), characters (GROUPS, len(CLASSES); zeros when there was no text)."""
    languages: Mapping[str, tuple[int, ...]]
    """Language -> sampled documents per group; a byte of text is as likely as another."""
    digests: Distinct
    top: Mapping[int, tuple[int, str]]
    """Frequent token ids -> count, text ("" without a decode function)."""
    tokenizer: str
    """Fingerprint."""

    def size(self, name: str) -> int:
        """One of SIZES over all groups."""
        return int(self.counts["sizes"][:, SIZES.index(name)].sum())

    def merge(self, other: "Sketch") -> "Sketch":
        """Of both shards.

        Raises:
            DataError: the tokens are of different tokenizers.
        """
        if self.tokenizer != other.tokenizer:
            raise DataError(
                f"sketches of tokenizers {self.tokenizer[:12]} and {other.tokenizer[:12]} can't be "
                "merged; sketch both shards with one tokenizer"
            )
        none, heard = (0,) * GROUPS, (self.languages, other.languages)
        return Sketch(
            {name: count + other.counts[name] for name, count in self.counts.items()},
            {
                name: tuple(a + b for a, b in zip(*(x.get(name, none) for x in heard), strict=True))
                for name in sorted(self.languages.keys() | other.languages.keys())
            },
            self.digests.merge(other.digests),
            {
                i: (
                    self.top.get(i, (0, ""))[0] + other.top.get(i, (0, ""))[0],
                    (self.top.get(i) or other.top[i])[1],
                )
                for i in sorted(self.top.keys() | other.top.keys())
            },
            self.tokenizer,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; rows without their zeros at the end."""
        rows = {n: [np.trim_zeros(g, "b").tolist() for g in c] for n, c in self.counts.items()}
        return {
            "version": VERSION,
            "tokenizer": self.tokenizer,
            "counts": rows,
            "languages": {name: list(groups) for name, groups in self.languages.items()},
            "digests": self.digests.to_list(),
            "top": [[i, count, text] for i, (count, text) in self.top.items()],
        }

    @staticmethod
    def from_dict(content: Mapping[str, Any]) -> "Sketch":
        """Inverse of `to_dict`.

        Raises:
            DataError: written by another version.
        """
        if content.get("version") != VERSION:
            raise DataError(
                f"a sketch of version {content.get('version')} is read, but {VERSION} is known "
                "here; prepare that data again"
            )
        counts = {}
        for name, width in _WIDTHS.items():
            rows = [row + [0] * (width - len(row)) for row in content["counts"][name]]
            counts[name] = np.array(rows, dtype=np.int64)
        return Sketch(
            counts,
            {name: tuple(groups) for name, groups in content["languages"].items()},
            Distinct.from_list(content["digests"]),
            {i: (count, text) for i, count, text in content["top"]},
            content["tokenizer"],
        )

    def to_json(self) -> str:
        """For the index of a shard set."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False)

    @staticmethod
    def from_json(text: str) -> "Sketch":
        """Inverse of `to_json`.

        Raises:
            DataError: there is none, or it is of another version.
        """
        if not text:
            raise DataError("a shard was written without sketches; prepare that data again")
        return Sketch.from_dict(json.loads(text))


_WIDTHS = {
    "sizes": len(SIZES),
    "token_lengths": len(EDGES) + 1,
    "byte_lengths": len(EDGES) + 1,
    "tokens": BUCKETS,
    "characters": len(CLASSES),
}


def sketch_documents(
    ids: Sequence[NDArray[Any]],
    text_bytes: Sequence[int],
    digests: Sequence[bytes],
    texts: Sequence[str] | None,
    facts: TokenFacts,
    identify: Callable[[str], str] | None = None,
) -> Sketch:
    """Sketch the documents of one shard.

    Args:
        ids: token ids of each document, with or without end of text, which is not counted.
        text_bytes: UTF-8 bytes of each.
        digests: 16 bytes of hash of each text; they also decide groups and samples.
        texts: the texts, or None: then characters and languages stay unknown.
        facts: of the tokenizer.
        identify: gives the language of a text (`language_identifier()`), or None.

    Raises:
        ValueError: the sequences have different lengths or there are no documents.
    """
    if not ids or len({len(ids), len(text_bytes), len(digests), len(texts or ids)}) > 1:
        raise ValueError(
            f"{len(ids)} token arrays, {len(text_bytes)} sizes and {len(digests)} digests; a "
            "sketch needs one of each per document, and a document"
        )
    raw = np.frombuffer(b"".join(digests), np.uint8).reshape(len(ids), 16)
    group = raw[:, 15].astype(np.int64) % GROUPS
    sizes = np.array(text_bytes, dtype=np.int64)
    ended = [len(one) > 0 and int(one[-1]) == facts.end_of_text for one in ids]
    lengths = np.array([len(one) for one in ids], dtype=np.int64) - ended
    words = _per_group(ids, group, facts.vocab_size)  # (GROUPS, V)
    words[:, facts.end_of_text] = 0
    names = raw[:, :8].copy().view(">u8")[:, 0]
    hashes, first, seen = np.unique(names, return_index=True, return_counts=True)
    counts = {
        "sizes": np.stack(
            [
                np.bincount(group, minlength=GROUPS),
                words.sum(1),
                np.bincount(group, sizes, minlength=GROUPS).astype(np.int64),
                words[:, facts.fallback].sum(1),
                np.bincount(group[first], seen - 1, minlength=GROUPS).astype(np.int64),
            ],
            axis=1,
        ),
        "token_lengths": _length_bins(lengths, group),
        "byte_lengths": _length_bins(sizes, group),
        "tokens": _buckets(words),
        "characters": _characters(texts, group),
    }
    return Sketch(
        counts,
        _languages(texts, sizes, raw[:, 8:], group, identify),
        Distinct.of(hashes.astype(np.uint64), seen),
        _top(words.sum(0), facts),
        facts.fingerprint,
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


def _characters(texts: Sequence[str] | None, group: NDArray[Any]) -> Counts:
    """Characters of each class in each group, (GROUPS, len(CLASSES)), from the first bytes."""
    totals = np.zeros((GROUPS, len(CLASSES)), dtype=np.int64)
    for g in range(GROUPS) if texts else ():
        assert texts is not None
        raw = "".join([texts[i] for i in np.flatnonzero(group == g).tolist()]).encode("utf-8")
        seen = np.zeros(256, dtype=np.int64)
        for start in range(0, len(raw), CHUNK_BYTES):  # bincount widens bytes to 8
            chunk = np.frombuffer(raw[start : start + CHUNK_BYTES], np.uint8)
            seen += np.bincount(chunk, minlength=256)
        totals[g] = np.bincount(_CLASS_OF, seen, minlength=len(CLASSES) + 1)[:-1]
    return totals


def _languages(
    texts: Sequence[str] | None,
    sizes: Counts,
    raw: NDArray[np.uint8],
    group: NDArray[Any],
    identify: Callable[[str], str] | None,
) -> dict[str, tuple[int, ...]]:
    """Languages of a sample chosen by content: chance = bytes / LANGUAGE_BYTES, at most 1."""
    if texts is None or identify is None:
        return {}
    chance = np.minimum(sizes / LANGUAGE_BYTES, 1)
    chosen = np.flatnonzero(raw.copy().view(">u8")[:, 0] < chance * 2.0**64)
    found: dict[str, list[int]] = {}
    for i in chosen.tolist():
        name = identify(texts[i][:LANGUAGE_CHARACTERS])
        found.setdefault(name, [0] * GROUPS)[int(group[i])] += 1
    return {name: tuple(found[name]) for name in sorted(found)}


def _top(words: Counts, facts: TokenFacts) -> dict[int, tuple[int, str]]:
    """The most frequent ids; ties by id."""
    order = np.argsort(-words, kind="stable")[:TOP]
    decode = facts.decode or (lambda ids: "")
    return {i: (int(words[i]), decode([i])) for i in sorted(order.tolist()) if words[i]}
