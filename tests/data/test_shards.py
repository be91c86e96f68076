import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.shards import (
    FORMAT_VERSION,
    BadBlock,
    ShardSet,
    Tokenized,
    manifest,
    writer,
)
from tests.data.writing import write_shards

END = 7


def document(ids, number=0):
    digest = number.to_bytes(2, "big") + bytes(14)
    return Tokenized(np.asarray(ids), digest, f"c/a.jsonl:{number + 1}", 3 * len(ids))


def some_documents(count=60, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(0, 200, count).tolist()
    return [document(np.append(rng.integers(8, 1000, n), END), i) for i, n in enumerate(sizes)]


def make(folder, documents, shard_tokens=1000):
    return write_shards(
        folder,
        documents,
        max_id=999,
        end_of_text=END,
        shard_tokens=shard_tokens,
        name="train",
        records="text",
        tokenizer="t" * 64,
        settings={"a": 1},
    )


@pytest.fixture
def written(tmp_path, monkeypatch):
    for module in (writer, manifest):
        monkeypatch.setattr(module, "HASH_BYTES", 256)
    documents = some_documents()
    return tmp_path / "set", documents, make(tmp_path / "set", documents)


def flip(path, byte, bit=4):
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 1 << bit
    path.write_bytes(raw)


def everything(folder):
    """Every token, and every fact of every document."""
    opened = ShardSet.open(folder)
    opened.read(0, opened.tokens)
    for i in range(opened.documents):
        opened.document(i), opened.place(i)


def test_shards_are_arrow_with_one_row_per_document_read_without_copying(written):
    folder, documents, _ = written
    rows = []
    for path in sorted(folder.glob("shard-?????.arrow")):
        with pa.memory_map(str(path)) as mapped:
            before = pa.total_allocated_bytes()
            batches = list(pa.ipc.open_stream(mapped))
            values = batches[0].column("input_ids").values
            assert pa.total_allocated_bytes() - before < 1000  # schema and the like
            assert values.to_numpy(zero_copy_only=True).dtype == np.uint16
            assert len(batches) == 1
            assert batches[0].column("input_ids").type == pa.large_list(pa.uint16())
            rows += batches[0].column("input_ids").to_pylist()
    assert rows == [document.ids.tolist() for document in documents]


@pytest.mark.filterwarnings("default")
def test_the_datasets_library_opens_a_shard_without_a_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    documents = [document([i % 900] * 5000 + [END], i) for i in range(200)]
    make(tmp_path / "set", documents, shard_tokens=10**9)
    path = tmp_path / "set" / "shard-00000.arrow"
    before = pa.total_allocated_bytes()
    dataset = datasets.Dataset.from_file(str(path))
    assert pa.total_allocated_bytes() - before < path.stat().st_size / 100
    assert dataset.column_names == ["input_ids"]
    assert len(dataset) == 200
    assert dataset[150]["input_ids"] == documents[150].ids.tolist()
    assert dataset.cache_files == [{"filename": str(path)}]
    assert not (tmp_path / "home").exists() or not list((tmp_path / "home").rglob("*.arrow"))


def test_the_manifest_on_disk_is_the_one_returned(written):
    folder, documents, written_manifest = written
    opened = ShardSet.open(folder)
    assert opened.manifest == written_manifest
    assert json.loads((folder / "manifest.json").read_text())["settings"] == {"a": 1}
    assert opened.tokens == sum(len(d.ids) for d in documents)
    assert opened.documents == len(documents)
    assert opened.manifest.bytes == sum(d.text_bytes for d in documents)
    assert (opened.end_of_text, opened.dtype) == (END, np.uint16)


def spoil_truncate(folder):
    path = folder / "shard-00001.arrow"
    path.write_bytes(path.read_bytes()[:-8])
    return "shard-00001.arrow has"


def spoil_missing(folder):
    (folder / "shard-00001.arrow").unlink()
    return "shard-00001.arrow is missing"


def spoil_documents_truncate(folder):
    path = folder / "shard-00001.documents.arrow"
    path.write_bytes(path.read_bytes()[:-8])
    return "shard-00001.documents.arrow has"


def spoil_documents_missing(folder):
    (folder / "shard-00001.documents.arrow").unlink()
    return "shard-00001.documents.arrow is missing"


def spoil_documents_byte(folder):
    flip(folder / "shard-00001.documents.arrow", 700)
    return "shard-00001.documents.arrow is missing or not what was written"


def spoil_swap(folder):
    a, b = folder / "shard-00000.arrow", folder / "shard-00001.arrow"
    a.rename(folder / "x")
    b.rename(a)
    (folder / "x").rename(b)
    return "shard-00000.arrow"


def spoil_index(folder):
    flip(folder / "index.arrow", 2000)
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


def spoil_manifest_of_another_set(folder):
    make(folder.parent / "other", some_documents(seed=5))
    shutil.copy(folder.parent / "other" / "manifest.json", folder / "manifest.json")
    return "index.arrow is damaged or stale"


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
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    return f"format_version 1, but {FORMAT_VERSION}"


SPOILS = [value for name, value in list(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILS, ids=lambda f: f.__name__)
def test_a_spoiled_set_is_refused_with_the_file_and_the_remedy(written, spoil):
    folder, _, _ = written
    message = spoil(folder)
    with pytest.raises(DataError) as caught:
        everything(folder)
    assert message in str(caught.value)
    assert "prepare the data again" in str(caught.value)


def test_two_shards_of_one_size_that_were_swapped_are_found(written, tmp_path):
    folder = tmp_path / "twins"
    make(folder, [document([20 + i] * 9 + [END], i) for i in range(20)], shard_tokens=100)
    spoil_swap(folder)
    opened = ShardSet.open(folder)
    for start in (0, 150):
        with pytest.raises(BadBlock, match="is not what was written") as caught:
            opened.read(start, start + 5)
        first = start // 100 * 100
        assert (caught.value.start, caught.value.stop) == (first, first + 100)


@pytest.fixture(scope="module")
def flippable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip") / "set"
    make(folder, some_documents(), shard_tokens=2000)
    return folder


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), file=st.integers(0, 99))
def test_a_flipped_bit_anywhere_is_found(flippable, where, bit, file):
    paths = sorted(flippable.iterdir())
    path = paths[file % len(paths)]
    whole = path.read_bytes()
    flip(path, int(where * len(whole)), bit)
    try:
        try:
            found = str(ShardSet.open(flippable).problems())
        except DataError as error:
            found = str(error)
        assert "prepare the data again" in found
        assert path.name in found or path.name == "manifest.json"
    finally:
        path.write_bytes(whole)


def test_every_difference_is_told(written):
    folder, _, _ = written
    opened = ShardSet.open(folder)
    assert opened.problems() == []
    flip(folder / "shard-00000.arrow", opened.entries[0].values_at)
    flip(folder / "shard-00001.arrow", 20)
    (folder / "shard-00002.documents.arrow").unlink()
    found = opened.problems()
    assert [line.split(" ")[0].rsplit("/", 1)[1] for line in found] == [
        "shard-00000.arrow",
        "shard-00001.arrow",
        "shard-00002.documents.arrow",
        "shard-00000.arrow",
    ]
    assert "block 0, tokens 0..128 of train" in found[3]
    assert "shard-00000.arrow is not what was written (sha256)" in found[0]
