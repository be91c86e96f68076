"""Records to token ids, each document checked, at less than the tokenizer's own cost.

Three things are checked of every document: it ends with end of text and holds no other, its ids
are inside the vocabulary, and its text comes back from its ids. For tokenizers whose decoding is
the bytes of the tokens in a row (byte-level BPE, plain bytes) the last is a comparison of memory:
the bytes of a whole batch are looked up at once, 17 ns a token where encoding takes 250 (words.py).
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.files import DataError
from data.preparation.words import WordIds, splits_as_gpt2
from data.records import Record, Span
from data.shards.manifest import token_type
from data.tokenizer import Tokenizer

BATCH_CHARACTERS = 1 << 20  # an Encoding takes some 20 times the bytes of its text

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """A batch of documents as tokens; a record of two texts is two documents in a row."""

    ids: NDArray[Any]
    """(tokens,) of all documents, end of text behind each; uint16 or uint32."""
    ends: Ids
    """(documents + 1,) where in `ids` each document starts, and the end."""
    text_bytes: Ids
    """(documents,) UTF-8 bytes of each text."""
    digests: list[bytes]
    """blake2b-128 of each text."""
    spans: list[tuple[Span, ...]]
    """Per document: token ranges to be trained on; (): all of it."""


def digest_of(raw: bytes) -> bytes:
    """blake2b-128 of a text's UTF-8 bytes."""
    return hashlib.blake2b(raw, digest_size=16).digest()


def record_digest(digests: Sequence[bytes]) -> bytes:
    """Identity of a record: the digest of its text, or for several a digest of theirs."""
    return digests[0] if len(digests) == 1 else digest_of(b"".join(digests))


def batches(records: Iterable[Any], characters: int = BATCH_CHARACTERS) -> Iterator[list[Any]]:
    """Pairs (row, record) in lists that hold about so many characters of text."""
    batch: list[Any] = []
    size = 0
    for row, record in records:
        batch.append((row, record))
        size += sum(map(len, record.texts))
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class Encoder:
    """Encodes batches of records with one tokenizer and checks what comes out."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Looks up the bytes of every token once."""
        import pyarrow as pa

        self.tokenizer = tokenizer
        self.dtype = token_type(tokenizer.vocab_size - 1)
        pieces = token_bytes(tokenizer)
        self.pieces = None if pieces is None else pa.array(pieces, pa.large_binary())
        self.words = WordIds(tokenizer) if splits_as_gpt2(tokenizer) else None

    def encode(self, records: Sequence[Record]) -> Encoded:
        """Token ids of all texts of the records.

        Raises:
            DataError: a text doesn't come back from its tokens, or an id can't be right; names the
                record's file and row.
        """
        texts = [text for record in records for text in record.texts]
        places = [record.place for record in records for _ in record.texts]
        spans: list[tuple[Span, ...]] = [
            span for record in records for span in (record.spans or ((),) * len(record.texts))
        ]
        raw = [text.encode("utf-8") for text in texts]
        text_bytes = np.fromiter(map(len, raw), np.int64, len(raw))
        ids, ends, offsets = self._ids(texts, raw, wants_offsets=any(spans))
        batch = _Batch(self.tokenizer, texts, places, raw, ids, ends)
        batch.check_ids()
        if self.pieces is None:
            batch.check_decoded()
        else:
            offsets = batch.check_bytes(self.pieces)
        return Encoded(
            ids.astype(self.dtype, copy=False),
            ends,
            text_bytes,
            list(map(digest_of, raw)),
            [
                batch.token_spans(number, span, offsets) if span else ()
                for number, span in enumerate(spans)
            ],
        )

    def _ids(
        self, texts: list[str], raw: list[bytes], *, wants_offsets: bool
    ) -> tuple[NDArray[Any], Ids, NDArray[Any]]:
        """Ids with end of text behind each text, where each text starts, characters of tokens.

        The last, (tokens, 2), is empty unless it is wanted and can't be had from the bytes.
        """
        end = self.tokenizer.end_of_text
        no_offsets = np.empty((0, 2), np.int64)
        if self.tokenizer.bpe is None:
            stops = np.cumsum([len(one) for one in raw], dtype=np.int64)
            ids = np.insert(np.frombuffer(b"".join(raw), np.uint8).astype(np.uint16), stops, end)
            return ids, np.concatenate([[0], stops + np.arange(1, len(raw) + 1)]), no_offsets
        if self.words is not None:
            return *_joined(map(self.words.of_text, texts), end), no_offsets
        # Offsets cost much, so a tokenizer gives them only where nothing else can.
        by_offsets = wants_offsets and self.pieces is None
        bpe = self.tokenizer.bpe
        encode = bpe.encode_batch if by_offsets else bpe.encode_batch_fast
        size = sum(map(len, texts))
        encodings = self.tokenizer.bounded(size, encode, texts, add_special_tokens=False)
        # 22 ns a token; numpy takes 33 for such a list.
        joined = _joined((array("I", own.ids).tobytes() for own in encodings), end)
        offsets = [no_offsets]
        for text, encoding in zip(texts, encodings if by_offsets else (), strict=False):
            offsets.append(np.array([*encoding.offsets, (len(text), len(text))], np.int64))
        return *joined, np.concatenate(offsets)


def _joined(texts: Iterable[bytes], end: int) -> tuple[NDArray[np.uint32], Ids]:
    """Ids of several texts, uint32 in a row each, with `end` behind each; and where each starts."""
    parts = list(texts)
    after = np.uint32(end).tobytes()
    sizes = np.fromiter(map(len, parts), np.int64, len(parts)) // len(after) + 1
    joined = b"".join(part for own in parts for part in (own, after))
    return np.frombuffer(joined, np.uint32), np.concatenate([[0], np.cumsum(sizes)])


@dataclass(frozen=True)
class _Batch:
    """What the checks of one batch need; `ids` and `ends` as in Encoded."""

    tokenizer: Tokenizer
    texts: list[str]
    places: list[str]
    raw: list[bytes]
    ids: NDArray[Any]
    ends: Ids

    def check_ids(self) -> None:
        """Every id is in the vocabulary, and end of text stands behind each document only."""
        size, end = self.tokenizer.vocab_size, self.tokenizer.end_of_text
        if self.ids.max() >= size:
            number = self._document(int(np.argmax(self.ids >= size)))
            raise DataError(
                f"{self._name(number)}: token ids outside 0..{size - 1}; the tokenizer's file is "
                "inconsistent"
            )
        found = np.flatnonzero(self.ids == end)
        if len(found) != len(self.texts):
            number = int(np.argmax(found[: len(self.texts)] != self.ends[1:] - 1))
            raise DataError(
                f"{self._name(number)}: the tokenizer makes end of text (id {end}) of plain text"
            )

    def check_bytes(self, pieces: Any) -> Ids:
        """Compare the bytes of the tokens with the text; returns where each token starts.

        The result is (tokens + 1,), bytes from the start of the batch.
        """
        import pyarrow as pa

        back = pieces.take(pa.array(self.ids))
        offsets = np.frombuffer(back.buffers()[1], np.int64, len(self.ids) + 1)
        whole = memoryview(back.buffers()[2] or b"").cast("B")
        sizes = np.fromiter(map(len, self.raw), np.int64, len(self.raw))
        same = whole == memoryview(b"".join(self.raw)).cast("B")
        if not same or (np.diff(offsets[self.ends]) != sizes).any():
            for number, raw in enumerate(self.raw):
                start, stop = offsets[self.ends[number : number + 2]]
                if whole[start:stop] != raw:
                    text = bytes(whole[start:stop]).decode("utf-8", errors="replace")
                    raise self._lost(number, text)
        return offsets

    def check_decoded(self) -> None:
        """Compare the decoded text of each document with what it was."""
        lists = [
            self.ids[start : stop - 1].tolist()
            for start, stop in zip(self.ends, self.ends[1:], strict=False)
        ]
        decode = self.tokenizer.bpe.decode_batch
        decoded = self.tokenizer.bounded(len(self.ids), decode, lists, skip_special_tokens=False)
        for number, (text, back) in enumerate(zip(self.texts, decoded, strict=True)):
            if text != back:
                raise self._lost(number, back)

    def token_spans(
        self, number: int, spans: Sequence[Span], offsets: NDArray[Any]
    ) -> tuple[Span, ...]:
        """Ranges of tokens that hold at least one character of the ranges of characters.

        A range that reaches the end of the text takes end of text along: the model shall learn to
        stop there.

        Args:
            spans: character ranges of the document.
            offsets: of tokens, as `check_bytes` gives them, or a tokenizer (in characters).
        """
        first, last = int(self.ends[number]), int(self.ends[number + 1])
        text = self.texts[number]
        if offsets.ndim == 1:
            own = offsets[first : last + 1] - offsets[first]
            starts, stops = own[:-1], own[1:]
            spans = [(len(text[:a].encode()), len(text[:b].encode())) for a, b in spans]
            end = len(self.raw[number])
        else:
            starts, stops = offsets[first:last].T
            end = len(text)
        found = []
        for a, b in spans:
            start = int(np.searchsorted(stops, a, side="right"))
            stop = last - first if b == end else int(np.searchsorted(starts, b, side="left"))
            found.append((start, stop))
        return tuple(found)

    def _document(self, token: int) -> int:
        return int(np.searchsorted(self.ends, token, side="right")) - 1

    def _name(self, number: int) -> str:
        return f"{self.places[number]}, which begins {self.texts[number][:40]!r}"

    def _lost(self, number: int, back: str) -> DataError:
        text = self.texts[number]
        at = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), None)
        at = min(len(text), len(back)) if at is None else at
        return DataError(
            f"{self._name(number)}: does not come back from its tokens: at character {at} "
            f"{text[at : at + 20]!r} became {back[at : at + 20]!r}; this tokenizer loses text "
            "(lower-casing, unknown tokens); use a byte-level one, for example tokenizer.kind=bpe"
        )


def bytes_of(pieces: Any, ids: NDArray[Any]) -> memoryview:
    """UTF-8 bytes of token ids, end of text as nothing; `pieces` are an Encoder's."""
    import pyarrow as pa

    return memoryview(pieces.take(pa.array(ids)).buffers()[2] or b"").cast("B")


def token_bytes(tokenizer: Tokenizer) -> list[bytes] | None:
    """The bytes of each id, b"" for end of text; None if decoding is more than joining them."""
    if tokenizer.bpe is None:
        return [*(bytes([byte]) for byte in range(256)), b""]
    decoder = json.loads(tokenizer.json).get("decoder") or {}
    if decoder.get("type") != "ByteLevel":
        return None
    byte_of = _byte_of_letter()
    pieces = [b""] * tokenizer.vocab_size
    for token, number in tokenizer.bpe.get_vocab(with_added_tokens=True).items():
        try:
            pieces[number] = bytes([byte_of[letter] for letter in token])
        except KeyError:  # an added token: it stands for itself
            pieces[number] = token.encode("utf-8")
    pieces[tokenizer.end_of_text] = b""
    return pieces


def _byte_of_letter() -> dict[str, int]:
    """The byte that each letter of byte-level BPE stands for (GPT-2, bytes_to_unicode)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte): byte for byte in shown}
    return letters | {chr(256 + place): byte for place, byte in enumerate(hidden)}
