import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, normalizers, pre_tokenizers, trainers

from data.files import DataError
from data.preparation.encoding import (
    Encoder,
    batches,
    bytes_of,
    digest_of,
    record_digest,
    token_bytes,
)
from data.records import Record
from data.tokenizer import Tokenizer

TEXTS = ["the cat sat on the mat. " * 20, "where is the hat? über allen\n\n" * 20, "0 1 2 3 " * 9]
NASTY = "a<|endoftext|>b \x00\x7f\t  é 日本 👩‍👩‍👧 \u202e\r\n <|endoftext|>"


def word_level(tmp_path, **options):
    """A tokenizer that is not byte-level: words and single characters."""
    made = HuggingFaceTokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split(" ", options.get("split", "isolated"))
    if options.get("lower"):
        made.normalizer = normalizers.Lowercase()
    trainer = trainers.WordLevelTrainer(special_tokens=["[UNK]", "</s>"], show_progress=False)
    made.train_from_iterator([" ".join(("the cat sat on mat",) * 3)], trainer)
    from tokenizers import decoders

    made.decoder = decoders.Fuse()
    made.save(str(tmp_path / "words.json"))
    return Tokenizer.load(tmp_path / "words.json")


@pytest.fixture(scope="module")
def bpe():
    return Tokenizer.train(iter(TEXTS), 290)


@pytest.fixture(params=["bpe", "bytes", "words"])
def tokenizer(request, bpe, tmp_path):
    kinds = {"bpe": lambda: bpe, "bytes": Tokenizer.plain_bytes}
    return kinds.get(request.param, lambda: word_level(tmp_path))()


def documents_of(encoded):
    return [encoded.ids[a:b].tolist() for a, b in zip(encoded.ends, encoded.ends[1:], strict=False)]


def test_a_batch_is_its_texts_one_by_one_with_end_of_text_behind_each(tokenizer):
    texts = ["the cat sat", "on the mat", "the mat"]
    encoded = Encoder(tokenizer).encode([Record((text,), "a:1") for text in texts])
    expected = [[*tokenizer.encode(text), tokenizer.end_of_text] for text in texts]
    assert documents_of(encoded) == expected
    assert encoded.ids.dtype == np.uint16
    assert encoded.text_bytes.tolist() == [len(text) for text in texts]
    assert encoded.digests == [digest_of(text.encode()) for text in texts]


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=5))
def test_any_text_comes_back_and_end_of_text_in_a_text_is_text(bpe, texts):
    for tokenizer in (bpe, Tokenizer.plain_bytes()):
        encoder = Encoder(tokenizer)
        encoded = encoder.encode([Record((text,), "a:1") for text in [*texts, NASTY]])
        assert bytes(bytes_of(encoder.pieces, encoded.ids)).decode() == "".join([*texts, NASTY])
        assert (encoded.ids == tokenizer.end_of_text).sum() == len(texts) + 1


def test_the_texts_of_a_pair_are_documents_one_after_the_other(bpe):
    encoded = Encoder(bpe).encode([Record(("the cat", "the hat"), "a:1"), Record(("on",), "a:2")])
    assert [bpe.decode(ids[:-1]) for ids in documents_of(encoded)] == ["the cat", "the hat", "on"]
    assert record_digest(encoded.digests[:1]) == encoded.digests[0]
    assert record_digest(encoded.digests[:2]) not in encoded.digests


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_spans_of_tokens_hold_exactly_the_characters_of_the_spans(bpe, data):
    texts = data.draw(
        st.lists(st.text(alphabet="the cat é日\n", min_size=1), min_size=1, max_size=3)
    )
    spans = []
    for text in texts:
        edges = data.draw(
            st.lists(st.integers(0, len(text)), min_size=2, max_size=4, unique=True).map(sorted)
            if len(text) > 3
            else st.just([0, len(text)])
        )
        spans.append(tuple(zip(edges[::2], edges[1::2], strict=False)))
    records = [Record((t,), "a:1", (s,)) for t, s in zip(texts, spans, strict=True)]
    for tokenizer in (bpe, Tokenizer.plain_bytes()):
        encoder = Encoder(tokenizer)
        pieces = token_bytes(tokenizer)
        encoded = encoder.encode(records)
        every = zip(texts, spans, encoded.spans, documents_of(encoded), strict=True)
        for text, wanted, found, ids in every:
            ends = np.cumsum([len(pieces[i]) for i in ids])
            starts = ends - [len(pieces[i]) for i in ids]
            for (a, b), (start, stop) in zip(wanted, found, strict=True):
                low, high = len(text[:a].encode()), len(text[:b].encode())
                inside = (ends > low) & (starts < high)
                inside[-1] = b == len(text)  # end of text, where the span reaches it
                assert np.flatnonzero(inside).tolist() == list(range(start, stop))


def test_spans_of_a_tokenizer_without_bytes_come_from_its_offsets(tmp_path):
    tokenizer = word_level(tmp_path)
    record = Record(("the cat sat on", "the mat"), "a:1", (((4, 7), (8, 14)), ()))
    encoded = Encoder(tokenizer).encode([record])
    # Tokens: the, space, cat, space, sat, space, on, end of text.
    assert encoded.spans == [((2, 3), (4, 8)), ()]


def test_a_tokenizer_that_loses_text_is_refused_with_file_and_row(tmp_path):
    encoder = Encoder(word_level(tmp_path, lower=True))
    records = [Record(("the cat",), "a.jsonl:7"), Record(("the Cat",), "a.jsonl:8")]
    with pytest.raises(DataError, match=r"a.jsonl:8, which begins 'the Cat': does not come back"):
        encoder.encode(records)


@pytest.mark.parametrize("spoil", ["merge", "outside", "end"])
def test_ids_that_can_not_be_right_are_refused_with_file_and_row(bpe, spoil):
    encoder = Encoder(bpe)
    records = [Record(("the cat",), "a:1"), Record(("on the mat",), "a:2")]
    honest = encoder._ids

    def spoiled(*arguments, **options):
        ids, ends, offsets = honest(*arguments, **options)
        ids = ids.copy()
        # A neighbour of the same length, so that only the bytes tell.
        ids[ends[1] + 1] = {"merge": bpe.encode("x")[0], "outside": 290}.get(spoil, bpe.end_of_text)
        return ids, ends, offsets

    encoder._ids = spoiled
    words = {"merge": "does not come back", "outside": "outside 0..289", "end": "makes end of text"}
    with pytest.raises(DataError, match=rf"a:2, which begins 'on the mat'.*{words[spoil]}"):
        encoder.encode(records)


def test_text_that_moves_from_one_document_to_the_next_is_noticed(bpe):
    encoder = Encoder(bpe)
    honest = encoder._ids

    def shifted(*arguments, **options):
        ids, ends, offsets = honest(*arguments, **options)
        ids, ends = ids.copy(), ends.copy()
        ids[ends[1] - 1], ids[ends[1]] = ids[ends[1]], ids[ends[1] - 1]
        ends[1] += 1
        return ids, ends, offsets

    encoder._ids = shifted
    with pytest.raises(DataError, match=r"a:1.*does not come back"):
        encoder.encode([Record(("ab",), "a:1"), Record(("cd",), "a:2")])


def test_batches_hold_so_many_characters_and_lose_nothing():
    records = [(number, Record(("x" * number,), "a:1")) for number in range(1, 30)]
    cut = list(batches(records, 50))
    assert [pair for batch in cut for pair in batch] == records
    assert all(sum(len(r.texts[0]) for _, r in batch) >= 50 for batch in cut[:-1])
    assert all(sum(len(r.texts[0]) for _, r in batch[:-1]) < 50 for batch in cut)


def test_bytes_of_tokens_are_what_the_tokenizer_decodes(bpe):
    for tokenizer in (bpe, Tokenizer.plain_bytes()):
        pieces = token_bytes(tokenizer)
        assert len(pieces) == tokenizer.vocab_size
        ids = [i for i in range(tokenizer.vocab_size) if i != tokenizer.end_of_text]
        assert b"".join(pieces).decode(errors="replace") == tokenizer.decode(ids)


def test_a_tokenizer_whose_decoding_is_not_joining_has_no_bytes(tmp_path):
    assert token_bytes(word_level(tmp_path)) is None
