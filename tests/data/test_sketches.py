import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from data.drift.sketches import (
    BUCKETS,
    EDGES,
    GROUPS,
    LANGUAGE_BYTES,
    Sketch,
    sketch_documents,
)
from data.drift.table_sketches import LISTED, SAMPLE, TableSketch, merged, sketch_table
from data.files import DataError
from data.tokenizer import Tokenizer

BYTES = Tokenizer.plain_bytes()


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def sketch(texts, identify=lambda text: "en"):
    ended = [np.array([*BYTES.encode(text), BYTES.end_of_text]) for text in texts]
    sizes, digests = [len(text.encode()) for text in texts], list(map(digest, texts))
    return sketch_documents(ended, sizes, digests, BYTES, lambda number: identify(texts[number]))


def test_counts_agree_with_slow_loops():
    texts = ["Hello 12\n", "déjà vu", "мир 3", "日本", "x" * 100, "Hello 12\n"]
    found = sketch(texts)
    everything = "".join(texts).encode()
    assert found.size("documents") == len(texts)
    assert found.size("tokens") == found.size("bytes") == len(everything)
    lengths = np.bincount([int((len(t.encode()) >= EDGES).sum()) for t in texts])
    assert (np.trim_zeros(found.counts["byte_lengths"].sum(0), "b") == lengths).all()
    assert (found.counts["token_lengths"] == found.counts["byte_lengths"]).all()  # bytes
    assert found.top[ord("x")] == (100, "x")
    assert found.counts["tokens"].shape == (GROUPS, BUCKETS)
    per_group = np.bincount([digest(text)[15] % GROUPS for text in texts], minlength=GROUPS)
    for name in ("token_lengths", "byte_lengths"):
        assert (found.counts[name].sum(1) == per_group).all()


def test_a_document_sketch_survives_json_and_another_version_is_refused():
    one = sketch(["naïve", "text", "日本"], lambda text: "fr")
    again = Sketch.from_json(one.to_json())
    assert again.to_json() == one.to_json()
    assert all((again.counts[name] == one.counts[name]).all() for name in one.counts)
    for text in ("", json.dumps(json.loads(one.to_json()) | {"version": 1})):
        with pytest.raises(DataError, match="no sketch of this release"):
            Sketch.from_json(text)


def test_a_document_sketch_stays_within_12_kb():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 256, size=int(n)) for n in rng.lognormal(5, 2, 3000).clip(1, 1e5)]
    digests = [rng.bytes(16) for _ in ids]
    one = sketch_documents(ids, list(map(len, ids)), digests, BYTES, lambda number: "en")
    assert one.size("tokens") > 1_000_000
    assert len(one.to_json().encode()) < 12_000


def test_languages_are_guessed_for_a_share_of_the_bytes_and_by_content_alone():
    texts = [f"{i} " + "x" * (LANGUAGE_BYTES // 8) for i in range(400)]
    asked = []
    one = sketch(texts, lambda text: asked.append(text) or "en")
    assert 25 < len(asked) < 85  # 400 / 8 = 50, standard deviation 6.6
    assert sum(one.languages["en"]) == len(asked)
    again = list(asked)
    asked.clear()
    sketch(texts[::-1], lambda text: asked.append(text) or "en")
    assert sorted(asked) == sorted(again)


def test_every_arrow_type_is_sketched():
    table = pa.table(
        {
            "decimal": pa.array([1, 2], pa.decimal128(10, 2)),
            "date": pa.array([0, 1], pa.date32()),
            "stamp": pa.array([0, 86_400_000], pa.timestamp("ms")),
            "span": pa.array([1, 2], pa.duration("s")),
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "flag": pa.array([True, None]),
            "list": pa.array([[1], None]),
            "null": pa.nulls(2),
        }
    )
    for columns in (sketch_table(table).columns, sketch_table(table.to_batches()[0]).columns):
        assert columns["decimal"].high == 2
        assert columns["date"].high == columns["stamp"].high == 86_400
        assert columns["span"].kind == "time"
        assert columns["word"].categories == {"a": 1, "b": 1}
        assert columns["flag"].categories == {"true": 1}
        assert (columns["list"].kind, columns["list"].missing) == ("other", 1)
        assert columns["null"].missing == 2


def test_numbers_that_are_not_finite_are_missing():
    column = sketch_table(pa.table({"x": [1.0, float("nan"), float("inf"), None]})).columns["x"]
    assert column.missing == 3
    assert column.sample == [1.0]


def test_a_table_has_no_two_columns_of_one_name():
    with pytest.raises(DataError, match="two columns named 'x'"):
        sketch_table(pa.table([[1], [2]], names=["x", "x"]))


def numbered(start, stop):
    rows = range(start, stop)
    return pa.table(
        {
            "number": [float(i) if i % 5 else None for i in rows],
            "text": [f"text {i}" for i in rows],
            "kind": ["even" if i % 2 == 0 else "odd" for i in rows],
        }
    )


def test_merged_parts_count_what_a_sketch_of_the_whole_counts():
    parts = [sketch_table(numbered(a, b)) for a, b in ((0, 100), (100, 4000), (4000, 10_000))]
    whole, together = sketch_table(numbered(0, 10_000)), merged(parts)
    assert together.rows == whole.rows == 10_000
    for name, column in whole.columns.items():
        other = together.columns[name]
        for part in ("kind", "type", "rows", "missing", "low", "high", "categories"):
            assert getattr(other, part) == getattr(column, part), (name, part)
        assert abs(len(other.sample) - SAMPLE) <= 2
    assert TableSketch.from_dict(json.loads(json.dumps(together.to_dict()))) == together


def test_each_row_of_the_parts_has_the_same_chance_to_be_in_the_sample():
    parts = [sketch_table(numbered(a, b)) for a, b in ((0, 2000), (2000, 10_000))]
    sample = np.array(merged(parts).columns["number"].sample)
    assert len(set(sample.tolist())) == len(sample)
    assert (sample < 2000).mean() == pytest.approx(0.2, abs=0.002)
    assert abs(np.corrcoef(np.arange(len(sample)), sample)[0, 1]) < 0.15  # in random order


def test_a_part_without_a_column_lacks_its_values():
    other = pa.table({"text": ["only"] * 50})
    column = merged([sketch_table(numbered(0, 100)), sketch_table(other)]).columns["number"]
    assert (column.rows, column.missing, column.kind) == (150, 70, "number")


def test_a_column_of_many_different_texts_has_no_categories():
    few, many = (pa.table({"x": [f"{i}" for i in range(n)] * 2}) for n in (LISTED, LISTED + 1))
    assert len(sketch_table(few).columns["x"].categories) == LISTED
    assert sketch_table(many).columns["x"].categories is None
    parts = [sketch_table(pa.table({"x": [f"{i}"]})) for i in range(LISTED + 1)]
    assert merged(parts).columns["x"].categories is None


def test_another_version_of_a_table_sketch_is_refused():
    with pytest.raises(DataError, match="version 1, not 2"):
        TableSketch.from_dict({"version": 1, "rows": 1, "columns": []})
