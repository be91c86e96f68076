"""What a language model has to beat: bits per byte of byte n-grams and of two compressors.

Bits per byte do not depend on the tokenizer, so these stand beside every model's own number.
"""

import gzip
import lzma

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 16  # grams that are looked at at a time: they stay in the cache of a core
LONGEST = 3  # bytes of a gram


def ngrams(train: bytes, validation: bytes) -> dict[str, float]:
    """Bits per byte of the validation text under n-grams of the train text, the weakest first.

    Raises:
        ValueError: a text is empty.
    """
    if not train or not validation:
        raise ValueError("baselines: need train and validation text, got an empty one")
    counts = _counts(np.frombuffer(train, np.uint8))
    text = np.frombuffer(validation, np.uint8)
    names = enumerate(("unigram", "bigram", "trigram"), start=1)
    return {name: _bits(counts, text, order) / len(text) for order, name in names}


def compressors(validation: bytes) -> dict[str, float]:
    """Bits per byte of the validation text, which is not empty, the weakest first."""
    size = len(validation)
    return {
        "gzip": 8 * len(gzip.compress(validation, compresslevel=9, mtime=0)) / size,
        "xz": 8 * len(lzma.compress(validation, preset=9)) / size,
    }


def _grams(text: NDArray[np.uint8], order: int) -> NDArray[np.int64]:
    """Each run of `order` bytes as one number, (len(text) - order + 1,)."""
    count = max(0, len(text) - order + 1)
    grams = np.zeros(count, dtype=np.int64)
    for i in range(order):
        grams <<= 8
        grams |= text[i : i + count]
    return grams


def _counts(text: NDArray[np.uint8]) -> dict[int, NDArray[np.uint32]]:
    """By order n, how often each run of n bytes occurs, (256**n,)."""
    counts = np.zeros(256**LONGEST, np.uint32)
    for start in range(0, len(text), CHUNK):
        np.add.at(counts, _grams(text[start : start + CHUNK + LONGEST - 1], LONGEST), np.uint32(1))
    found = {LONGEST: counts}
    for order in range(LONGEST - 1, 0, -1):
        counts = counts.reshape(-1, 256).sum(axis=1, dtype=np.uint32)
        counts[_grams(text[-order:], order)] += 1  # the last one, which begins no longer one
        found[order] = counts
    return found


def _bits(counts: dict[int, NDArray[np.uint32]], text: NDArray[np.uint8], order: int) -> float:
    """Total bits of a text under an add-one n-gram model.

    p(c | context) = (n(context c) + 1) / (n(context) + 256); the first order - 1 bytes have
    shorter contexts and are coded by the shorter models. n(context) counts where a byte follows.
    """
    contexts = counts[order].reshape(-1, 256).sum(axis=1, dtype=np.uint32)
    bits = 0.0
    for start in range(0, len(text), CHUNK):
        grams = _grams(text[start : start + CHUNK + order - 1], order)
        bits += float(np.log2((contexts[grams >> 8] + 256) / (counts[order][grams] + 1)).sum())
    return bits + (_bits(counts, text[: order - 1], order - 1) if order > 1 else 0.0)
