"""What a language model has to beat: bits per byte of byte n-grams and of two compressors.

Bits per byte do not depend on the tokenizer, so these stand beside every model's own number.
"""

import gzip
import lzma

import numpy as np
from numpy.typing import NDArray

CHUNK = 1 << 24  # bytes counted at a time, so that index arrays stay small


def _grams(text: NDArray[np.uint8], order: int) -> NDArray[np.int64]:
    """Each run of `order` bytes as one number, (len(text) - order + 1,)."""
    count = max(0, len(text) - order + 1)
    grams = np.zeros(count, dtype=np.int64)
    for i in range(order):
        grams = (grams << 8) | text[i : i + count]
    return grams


def _counts(text: NDArray[np.uint8], order: int) -> NDArray[np.int64]:
    """How often each run of `order` bytes occurs, (256**order,)."""
    counts = np.zeros(256**order, dtype=np.int64)
    for start in range(0, len(text), CHUNK):
        grams = _grams(text[start : start + CHUNK + order - 1], order)
        counts += np.bincount(grams, minlength=256**order)
    return counts


def _ngram_bits(train: NDArray[np.uint8], validation: NDArray[np.uint8], order: int) -> float:
    """Total bits of the validation bytes under an add-one n-gram model.

    p(c | context) = (n(context c) + 1) / (n(context) + 256); the first order - 1 bytes have
    shorter contexts and are coded by the shorter models.
    """
    counts = _counts(train, order)
    contexts = counts.reshape(-1, 256).sum(axis=1)  # (256**(order-1),)
    bits = 0.0
    for start in range(0, len(validation), CHUNK):
        grams = _grams(validation[start : start + CHUNK + order - 1], order)
        bits += float(np.log2((contexts[grams >> 8] + 256) / (counts[grams] + 1)).sum())
    if order > 1:
        bits += _ngram_bits(train, validation[: order - 1], order - 1)
    return bits


def baselines(train_bytes: bytes, validation_bytes: bytes) -> dict[str, float]:
    """Bits per byte of the validation text under each baseline, the weakest model first.

    Raises:
        ValueError: a text is empty.
    """
    if not train_bytes or not validation_bytes:
        raise ValueError("baselines: need train and validation text, got an empty one")
    train = np.frombuffer(train_bytes, dtype=np.uint8)
    validation = np.frombuffer(validation_bytes, dtype=np.uint8)
    size = len(validation)
    bits = {
        name: _ngram_bits(train, validation, order) / size
        for order, name in enumerate(("unigram", "bigram", "trigram"), start=1)
    }
    bits["gzip"] = 8 * len(gzip.compress(validation_bytes, compresslevel=9, mtime=0)) / size
    bits["xz"] = 8 * len(lzma.compress(validation_bytes, preset=9)) / size
    return bits
