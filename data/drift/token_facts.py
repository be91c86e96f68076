"""What the sketches of documents must know of a tokenizer."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenFacts:
    """What a sketch must know of a tokenizer."""

    vocab_size: int
    end_of_text: int
    fingerprint: str
    fallback: NDArray[np.int64]
    """Ids that stand for one byte of a character that is not ASCII."""
    decode: Callable[[list[int]], str] | None = None
    """Text of ids, for the report."""


def token_facts(tokenizer: Tokenizer) -> TokenFacts:
    """The facts of a tokenizer: byte-level, with <0x..> tokens, or plain bytes."""
    if tokenizer.bpe is None:
        fallback = list(range(0x80, 0x100))
    else:
        vocabulary = tokenizer.bpe.get_vocab(with_added_tokens=False)
        names = {f"<0x{byte:02X}>" for byte in range(0x80, 0x100)}
        if "ByteLevel" in json.dumps([json.loads(tokenizer.json).get("decoder")]):
            names |= _byte_letters()
        fallback = sorted(i for name, i in vocabulary.items() if name in names)
    return TokenFacts(
        tokenizer.vocab_size,
        tokenizer.end_of_text,
        tokenizer.fingerprint,
        np.array(fallback, dtype=np.int64),
        tokenizer.decode,
    )


def _byte_letters() -> set[str]:
    """The letters that byte-level BPE writes for bytes 0x80..0xFF (GPT-2, bytes_to_unicode)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {chr(byte) for byte in shown if byte >= 0x80}
    return letters | {chr(256 + place) for place, byte in enumerate(hidden) if byte >= 0x80}
