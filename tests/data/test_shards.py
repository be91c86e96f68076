import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest

from data import shards
from data.files import DataError
from data.shards import ShardSet, write_shards

END = 7


def make(folder, documents, **changes):
    arguments = {
        "name": "train",
        "text_bytes": 123,
        "max_id": 999,
        "end_of_text": END,
        "tokenizer": "t" * 64,
        "settings": {"a": 1},
        "shard_tokens": 1000,
    }
    return write_shards(folder, documents, **(arguments | changes))


def some_documents(count=60, largest=999, seed=0):
    rng = np.random.default_rng(seed)
    return [
        np.append(rng.integers(8, largest + 1, rng.integers(0, 200)), END) for _ in range(count)
    ]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(shards, "BLOCK_BYTES", 256)


@pytest.fixture
def written(tmp_path, small_blocks):
    documents = some_documents()
    return tmp_path / "set", documents, make(tmp_path / "set", documents)


def test_any_range_is_that_range_of_the_documents_laid_end_to_end(written):
    folder, documents, manifest = written
    stream = np.concatenate(documents)
    opened = ShardSet.open(folder)
    assert len(list(folder.glob("shard-*.arrow"))) > 3
    assert opened.tokens == len(opened) == len(stream) == manifest.tokens
    assert manifest.documents == len(documents)
    rng = np.random.default_rng(1)
    ranges = np.sort(rng.integers(0, len(stream) + 1, (500, 2)), axis=1).tolist()
    edges = [[0, 0], [0, len(stream)], [len(stream), len(stream)], [len(stream) - 1, len(stream)]]
    for start, stop in ranges + edges:
        np.testing.assert_array_equal(opened.read(start, stop), stream[start:stop])
    for start, stop in [(-1, 3), (0, len(stream) + 1), (5, 4)]:
        with pytest.raises(IndexError):
            opened.read(start, stop)


def test_a_small_cache_gives_the_same_tokens(written):
    folder, documents, _ = written
    opened = ShardSet.open(folder, cache_blocks=1)
    np.testing.assert_array_equal(opened.read(0, opened.tokens), np.concatenate(documents))


def test_shards_are_arrow_with_one_row_per_document_read_without_copying(written):
    folder, documents, _ = written
    rows = []
    for path in sorted(folder.glob("shard-*.arrow")):
        with pa.memory_map(str(path)) as mapped:
            before = pa.total_allocated_bytes()
            file = mapped.read_buffer()
            batches = list(pa.ipc.open_stream(pa.BufferReader(file)))
            column = batches[0].column("input_ids")
            values = column.values.buffers()[1]
            assert pa.total_allocated_bytes() - before < 1000
            assert file.address <= values.address < file.address + file.size
            assert len(batches) == 1
            assert column.type == pa.large_list(pa.uint16())
            rows += column.to_pylist()
    assert rows == [document.tolist() for document in documents]


@pytest.mark.filterwarnings("default")
def test_the_datasets_library_opens_a_shard(written, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    folder, documents, _ = written
    dataset = datasets.Dataset.from_file(str(folder / "shard-00000.arrow"))
    assert dataset.column_names == ["input_ids"]
    assert dataset[1]["input_ids"] == documents[1].tolist()
    assert dataset.cache_files == [{"filename": str(folder / "shard-00000.arrow")}]


@pytest.mark.parametrize(
    ("max_id", "dtype"), [(65_534, "uint16"), (65_535, "uint16"), (65_536, "uint32")]
)
def test_the_width_follows_the_largest_id_there_may_be(tmp_path, max_id, dtype):
    manifest = make(tmp_path / "set", [np.array([max_id, END])], max_id=max_id)
    assert manifest.dtype == dtype
    assert ShardSet.open(tmp_path / "set").read(0, 2).tolist() == [max_id, END]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([3, 4], "train document 1 doesn't end with end of text 7"),
        ([], "doesn't end with"),
        ([1000, END], r"holds ids 7..1000, outside 0..999"),
        ([-1, END], "holds ids -1..7"),
    ],
)
def test_documents_that_break_the_format_are_refused(tmp_path, ids, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path / "set", [np.array([3, END]), np.array(ids, dtype=np.int64)])


def test_nothing_to_write_is_refused(tmp_path):
    with pytest.raises(DataError, match="no documents"):
        make(tmp_path / "set", [])


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    documents = some_documents()
    first = make(tmp_path / "a", documents)
    assert make(tmp_path / "b", documents).fingerprint == first.fingerprint
    changed = [d.copy() for d in documents]
    changed[40][0] ^= 1
    others = [
        make(tmp_path / "c", changed),
        make(tmp_path / "d", documents[::-1]),
        make(tmp_path / "e", documents, tokenizer="u" * 64),
        make(tmp_path / "f", documents, settings={"a": 2}),
        make(tmp_path / "g", documents, end_of_text=END, max_id=998 + 65_536),
    ]
    assert len({m.fingerprint for m in [first, *others]}) == 6


def every_token(folder):
    opened = ShardSet.open(folder)
    return opened.read(0, opened.tokens)


def test_each_flipped_byte_of_the_tokens_is_found_when_it_is_read(written):
    folder, _, _ = written
    path = folder / "shard-00001.arrow"
    whole = path.read_bytes()
    index = pa.ipc.open_stream((folder / "index.arrow").read_bytes()).read_all().to_pylist()[1]
    end = index["offset"] + 2 * index["tokens"]
    for place in [index["offset"], (index["offset"] + end) // 2, end - 1]:
        broken = bytearray(whole)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"shard-00001.arrow is not what was written") as caught:
            every_token(folder)
        assert "prepare the data again" in str(caught.value)
    path.write_bytes(whole)
    every_token(folder)


def test_verify_finds_a_flipped_byte_outside_the_tokens_too(written):
    folder, _, _ = written
    ShardSet.open(folder).verify()
    path = folder / "shard-00002.arrow"
    broken = bytearray(path.read_bytes())
    broken[20] ^= 1
    path.write_bytes(broken)
    with pytest.raises(DataError, match=r"shard-00002.arrow is missing or not what was written"):
        ShardSet.open(folder).verify()


def test_a_file_cut_after_opening_raises_and_does_not_kill_the_process(written):
    folder, _, _ = written
    opened = ShardSet.open(folder)
    path = folder / "shard-00000.arrow"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"shard-00000.arrow is torn"):
        opened.read(0, opened.tokens)


def spoil_truncate(folder):
    path = folder / "shard-00001.arrow"
    path.write_bytes(path.read_bytes()[:-8])
    return "shard-00001.arrow has"


def spoil_missing(folder):
    (folder / "shard-00001.arrow").unlink()
    return "shard-00001.arrow is missing"


def spoil_swap(folder):
    a, b = folder / "shard-00000.arrow", folder / "shard-00001.arrow"
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)
    return "shard-00000.arrow"


def spoil_index(folder):
    path = folder / "index.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    return "index.arrow is damaged or stale"


def spoil_stale_index(folder):
    make(folder.parent / "other", some_documents(seed=5))
    shutil.copy(folder.parent / "other" / "index.arrow", folder / "index.arrow")
    return "index.arrow is damaged or stale"


def spoil_manifest_number(folder):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"bytes": content["bytes"] + 1}))
    return "manifest.json does not belong to the shards"


def spoil_manifest_text(folder):
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-20])
    return "manifest.json is damaged"


def spoil_manifest_missing(folder):
    (folder / "manifest.json").unlink()
    return "manifest.json is missing"


def spoil_index_missing(folder):
    (folder / "index.arrow").unlink()
    return "index.arrow is missing"


def spoil_version(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 99}))
    return "format_version 99"


SPOILS = [value for name, value in list(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda f: f.__name__)
def test_a_spoiled_set_is_refused_with_the_file_and_the_remedy(written, spoil):
    folder, _, _ = written
    message = spoil(folder)
    with pytest.raises(DataError) as caught:
        every_token(folder)
    assert message in str(caught.value)
    assert "prepare the data again" in str(caught.value)


def test_the_manifest_on_disk_is_the_one_returned(written):
    folder, _, manifest = written
    assert json.loads((folder / "manifest.json").read_text()) == dataclasses.asdict(manifest)
    assert ShardSet.open(folder).manifest == manifest
