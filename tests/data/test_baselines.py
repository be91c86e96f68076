import gzip
import lzma
import math

import numpy as np
import pytest

from data.preparation.baselines import compressors, ngrams


def slow_bits(train, text, order):
    """Add-one n-gram bits, counting by scanning."""
    bits = 0.0
    for i in range(len(text)):
        n = min(order, i + 1)
        context, char = text[i - n + 1 : i], text[i]
        places = range(len(train) - n + 1)
        here = [j for j in places if train[j : j + n - 1] == context]
        hits = sum(train[j + n - 1] == char for j in here)
        bits -= math.log2((hits + 1) / (len(here) + 256))
    return bits / len(text)


def test_ngrams_are_what_counting_by_hand_gives():
    train = "the cat sat on the mat, the end. ärger ".encode() * 2
    text = "that cat met ä hat".encode()
    found = ngrams(train, text)
    for order, name in enumerate(("unigram", "bigram", "trigram"), start=1):
        assert found[name] == pytest.approx(slow_bits(train, text, order), rel=1e-12)


def test_counting_in_chunks_changes_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    train, text = (bytes(rng.integers(97, 101, 1000, dtype=np.uint8)) for _ in range(2))
    whole = ngrams(train, text)
    monkeypatch.setattr("data.preparation.baselines.CHUNK", 299)
    assert ngrams(train, text) == pytest.approx(whole, rel=1e-12)


def test_random_bytes_cost_eight_bits_under_an_unfitted_model():
    text = bytes(range(256)) * 20
    assert ngrams(text, text)["unigram"] == pytest.approx(8)


def test_compressors_are_measured_on_the_validation_text():
    text = b"to be or not to be " * 50
    found = compressors(text)
    assert found["gzip"] == 8 * len(gzip.compress(text, 9)) / len(text)
    assert found["xz"] == 8 * len(lzma.compress(text, preset=9)) / len(text)
    assert list(found) == ["gzip", "xz"]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_texts_shorter_than_a_context_are_coded_by_the_shorter_models(size):
    text = b"abc"[:size]
    assert ngrams(b"ab", text)["trigram"] == pytest.approx(slow_bits(b"ab", text, 3))


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="empty"):
        ngrams(b"abc", b"")
