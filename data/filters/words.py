"""Words and n-grams of a text as numbers: what repetition, overlap and near duplicates compare.

Hashes are xxh3-64 of the UTF-8 word, so they are the same on every machine and in every process.
"""

import re
from collections.abc import Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

# Chinese and Japanese put no spaces between words: there a character counts as a word.
_SPACELESS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[^\W_{_SPACELESS}]+|[{_SPACELESS}]")
PARAGRAPH_END = re.compile(r"\n\s*\n")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no position of an n-gram is lost
_MEMORY = 1 << 18  # words remembered per process, about 40 MB


class _Memory(dict[str, int]):
    """Hash of each word; most words of a text were seen before, so most need no hashing."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _MEMORY:
            self.clear()
        self[word] = value = xxhash.xxh3_64_intdigest(word.encode("utf-8"))
        return value


_memory = _Memory()


def normal_words(text: str) -> list[str]:
    """The words of a text without case, punctuation and white space."""
    return WORD.findall(text.casefold())


def hash_words(words: Sequence[str]) -> Hashes:
    """One number per word: (W,)."""
    return np.fromiter(map(_memory.__getitem__, words), np.uint64, len(words))


def hash_ngrams(hashes: Hashes, n: int) -> Hashes:
    """One number per n-gram of words: (W,) -> (max(0, W - n + 1),), in the order of the text.

    The number is a polynomial of the n words' hashes modulo 2^64; two different n-grams share one
    with probability 2^-64.
    """
    count = max(0, len(hashes) - n + 1)
    grams = hashes[:count].copy()
    for k in range(1, n):
        grams *= _MULTIPLIER
        grams += hashes[k : k + count]
    return grams


def extend_ngrams(grams: Hashes, last: Hashes) -> Hashes:
    """The hashes of (n+1)-grams from those of n-grams and of the word after each."""
    return grams * _MULTIPLIER + last
