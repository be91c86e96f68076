import numpy as np
import pytest

from data.files import DataError
from data.shards import ShardSet, Tokenized
from tests.data.writing import write_shards

END = 7


@pytest.fixture
def documents():
    rng = np.random.default_rng(0)
    return [
        Tokenized(
            ids=np.append(rng.integers(8, 1000, n), END),
            digest=rng.bytes(16),
            place=f"c/{'ab'[i % 2]}.jsonl:{i + 1}",
            text_bytes=3 * n,
            spans=((0, 1), (n // 2, n + 1)) if i % 3 and n > 4 else (),
        )
        for i, n in enumerate(rng.integers(0, 100, 60).tolist())
    ]


@pytest.fixture
def folder(tmp_path, documents):
    limits = {"max_id": 999, "end_of_text": END, "shard_tokens": 500}
    about = {"name": "train", "records": "text", "tokenizer": "t", "settings": {}}
    write_shards(tmp_path / "set", documents, **limits, **about)
    return tmp_path / "set"


def test_each_document_is_found_as_it_was_written(folder, documents):
    opened = ShardSet.open(folder)
    assert len(opened.entries) > 3
    at = 0
    for number, written in enumerate(documents):
        assert opened.document(number).tolist() == written.ids.tolist()
        assert opened.extent(number) == (at, at + len(written.ids))
        assert opened.digest(number) == written.digest
        assert opened.place(number) == written.place
        assert opened.spans(number) == written.spans
        at += len(written.ids)
    assert opened.offsets.tolist() == [opened.extent(i)[0] for i in range(60)] + [opened.tokens]
    rows = [entry.rows for entry in opened.entries]
    names = np.repeat([entry.file for entry in opened.entries], rows).tolist()
    assert [opened.shard_of(i) for i in range(60)] == names
    for outside in (-1, 60):
        with pytest.raises(IndexError, match=r"not inside 0\.\.60"):
            opened.place(outside)


def test_each_position_has_its_document_and_offset(folder, documents):
    opened = ShardSet.open(folder)
    pairs = [(i, j) for i, document in enumerate(documents) for j in range(len(document.ids))]
    order = np.random.default_rng(1).permutation(len(pairs))
    found, offsets = opened.document_at(order)
    assert list(zip(found.tolist(), offsets.tolist(), strict=True)) == [pairs[i] for i in order]
    assert [len(part) for part in opened.document_at(np.empty(0, np.int64))] == [0, 0]
    with pytest.raises(IndexError):
        opened.document_at(np.array([0, opened.tokens]))


def test_offsets_are_read_only_for_the_shards_that_are_asked_about(folder, documents):
    opened = ShardSet.open(folder)
    last = folder / opened.entries[-1].file
    last.write_bytes(b"")
    assert opened.document_at(np.array([3]))[0] == [0]
    with pytest.raises(DataError, match=f"{last.name} is missing or not what was written"):
        opened.document_at(np.array([opened.tokens - 1]))


def test_documents_are_found_by_digest_and_by_place(folder, documents):
    opened = ShardSet.open(folder)
    for number in (0, 17, 59):
        digest = documents[number].digest
        assert opened.find(digest) == [number]
        for digits in (32, 31, 9, 8):
            assert opened.find(digest.hex()[:digits]) == [number]
        assert opened.find(digest.hex()[:8].upper()) == [number]
        assert opened.find(documents[number].place) == [number]
    assert opened.find("c/a.jsonl:1") == [0]  # and not 11, 13, ...
    assert opened.find("c/a.jsonl:5") == [4]
    assert opened.find("c/b.jsonl") == list(range(1, 60, 2))
    assert opened.find("c/c") == opened.find("0" * 32) == opened.find(bytes(16)) == []
    with pytest.raises(ValueError, match="find: give a digest or a place"):
        opened.find("")


def test_damaged_offsets_and_facts_are_refused(folder):
    entry = ShardSet.open(folder).entries[1]
    for name, byte in ((entry.file, entry.ends_at + 9), (entry.documents_file, 900)):
        raw = (folder / name).read_bytes()
        (folder / name).write_bytes(raw[:byte] + b"\xff" + raw[byte + 1 :])
    number = ShardSet.open(folder).entries[0].rows
    with pytest.raises(
        DataError, match=rf"{entry.file} is missing or not .* bytes {entry.ends_at}"
    ):
        ShardSet.open(folder).document(number)
    with pytest.raises(DataError, match=f"{entry.documents_file} is missing or not what was"):
        ShardSet.open(folder).place(number)
