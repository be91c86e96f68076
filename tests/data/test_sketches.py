import hashlib
import json
import random
from functools import reduce

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.drift.distinct import Distinct
from data.drift.numbers import CELLS, NumberSketch
from data.drift.sketches import (
    BUCKETS,
    CLASSES,
    EDGES,
    GROUPS,
    LANGUAGE_BYTES,
    Sketch,
    language_identifier,
    sketch_documents,
)
from data.drift.table_sketches import TableSketch, sketch_table
from data.drift.token_facts import token_facts
from data.files import DataError
from data.tokenizer import Tokenizer

BYTES = token_facts(Tokenizer.plain_bytes())
FEW = settings(max_examples=40, deadline=None)


def digest(text):
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def sketch(texts, facts=BYTES, tokenizer=None, identify=None):
    encode = (tokenizer or Tokenizer.plain_bytes()).encode
    ended = [np.array([*encode(text), facts.end_of_text]) for text in texts]
    sizes = [len(text.encode()) for text in texts]
    return sketch_documents(ended, sizes, list(map(digest, texts)), texts, facts, identify)


documents = st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=12)
numbers = st.lists(
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-1000, 1000).map(float),
        st.floats(1.7e9, 1.8e9),
    ),
    max_size=200,
)


@FEW
@given(documents, documents, documents)
def test_merging_document_sketches_is_associative_and_commutative(a, b, c):
    x, y, z = (sketch(texts) for texts in (a, b, c))
    assert x.merge(y).merge(z).to_json() == x.merge(y.merge(z)).to_json()
    assert x.merge(y).to_json() == y.merge(x).to_json()


@FEW
@given(documents, documents)
def test_a_merged_sketch_counts_what_a_sketch_of_all_documents_counts(a, b):
    merged, whole = sketch(a).merge(sketch(b)), sketch(a + b)
    for name in ("token_lengths", "byte_lengths", "tokens", "characters"):
        assert (merged.counts[name] == whole.counts[name]).all()
    assert merged.digests == whole.digests
    assert merged.size("documents") == len(a + b)


def test_counts_agree_with_slow_loops():
    texts = ["Hello 12\n", "déjà vu", "мир 3", "日本", "x" * 100, "Hello 12\n"]
    found = sketch(texts)
    everything = "".join(texts)
    shares = dict(zip(CLASSES, found.counts["characters"].sum(0).tolist(), strict=True))
    assert shares["digits"] == sum(c in "0123456789" for c in everything)
    assert shares["newlines"] == everything.count("\n")
    assert shares["Cyrillic"] == 3
    assert shares["Latin-1"] == 2
    assert shares["Chinese and Japanese"] == 2
    assert sum(shares.values()) == len(everything)
    assert found.size("tokens") == found.size("bytes") == len(everything.encode())
    assert found.size("fallback") == sum(byte >= 0x80 for byte in everything.encode())
    assert found.size("duplicates") == 1
    assert found.digests.estimate() == 5
    lengths = np.bincount([int((len(t.encode()) >= EDGES).sum()) for t in texts])
    assert (np.trim_zeros(found.counts["byte_lengths"].sum(0), "b") == lengths).all()
    assert found.top[ord("x")] == (100, "x")
    assert found.counts["tokens"].shape == (GROUPS, BUCKETS)
    per_group = np.bincount([digest(text)[15] % GROUPS for text in texts], minlength=GROUPS)
    for name in ("token_lengths", "byte_lengths"):
        assert (found.counts[name].sum(1) == per_group).all()


def test_the_fallback_tokens_of_a_byte_level_bpe_are_the_bytes_of_other_scripts():
    tokenizer = Tokenizer.train(["the cat sat on the mat " * 20] * 5, 265)
    facts = token_facts(tokenizer)
    assert len(facts.fallback) == 128
    assert set(tokenizer.encode("мир")) <= set(facts.fallback.tolist())
    assert not set(tokenizer.encode("the cat!")) & set(facts.fallback.tolist())


def test_a_document_sketch_survives_json_and_another_version_is_refused():
    one = sketch(["naïve", "text", "日本"], identify=lambda text: "fr")
    assert Sketch.from_json(one.to_json()).to_json() == one.to_json()
    with pytest.raises(DataError, match="without sketches"):
        Sketch.from_json("")
    with pytest.raises(DataError, match="version 0"):
        Sketch.from_dict(json.loads(one.to_json()) | {"version": 0})


def test_a_document_sketch_stays_within_12_kb():
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 50_000, size=int(n)) for n in rng.lognormal(5, 2, 3000).clip(1, 1e5)]
    facts = type(BYTES)(50_001, 50_000, "f" * 64, np.arange(128), lambda ids: "token text")
    texts = ["text 1"] * len(ids)
    digests = [rng.bytes(16) for _ in ids]
    one = sketch_documents(ids, [4 * len(i) for i in ids], digests, texts, facts, lambda t: "en")
    assert one.size("tokens") > 1_000_000
    assert len(one.to_json().encode()) < 12_000


def test_languages_are_guessed_for_a_share_of_the_bytes_and_by_content_alone():
    texts = [f"{i} " + "x" * (LANGUAGE_BYTES // 8) for i in range(400)]
    asked = []
    one = sketch(texts, identify=lambda text: asked.append(text) or "en")
    assert 25 < len(asked) < 85  # 400 / 8 = 50, standard deviation 6.6
    assert sum(one.languages["en"]) == len(asked)
    again = list(asked)
    asked.clear()
    sketch(texts[::-1], identify=lambda text: asked.append(text) or "en")
    assert sorted(asked) == sorted(again)


def test_the_language_identifier_knows_english_from_german():
    pytest.importorskip("py3langid")
    identify = language_identifier()
    assert identify("The weather is nice and we are going for a walk.") == "en"
    assert identify("Das Wetter ist schön und wir gehen heute spazieren.") == "de"


def test_without_texts_characters_stay_unknown():
    one = sketch_documents([np.array([1, 2])], [2], [digest("a")], None, BYTES)
    assert not one.counts["characters"].any()
    assert one.size("tokens") == 2


def test_sketches_of_two_tokenizers_are_not_merged():
    tokenizer = Tokenizer.train(["the cat sat on the mat " * 20] * 5, 265)
    other = sketch(["text"], token_facts(tokenizer), tokenizer)
    with pytest.raises(DataError, match="can't be merged"):
        other.merge(sketch(["text"]))


@FEW
@given(st.lists(st.integers(0, 500), max_size=300), st.integers(1, 5))
def test_distinct_counts_are_exact_for_the_smallest_hashes(items, parts):
    hashes = [int.from_bytes(digest(str(i))[:8], "big") for i in items]

    def of(some):
        return Distinct.of(*np.unique(np.array(some, np.uint64), return_counts=True), size=16)

    merged = reduce(lambda a, b: a.merge(b, 16), (of(hashes[i::parts]) for i in range(parts)))
    smallest = sorted(set(hashes))[:16]
    assert dict(merged.seen) == {h: hashes.count(h) for h in smallest}


@FEW
@given(numbers, numbers, numbers)
def test_merging_number_sketches_equals_sketching_all_numbers(a, b, c):
    x, y, z = (NumberSketch.of(np.array(values)) for values in (a, b, c))
    whole = NumberSketch.of(np.array(a + b + c))
    assert x.merge(y).merge(z) == x.merge(y.merge(z)) == z.merge(x).merge(y) == whole
    assert len(whole.linear.cells) <= CELLS
    assert NumberSketch.from_list(json.loads(json.dumps(whole.to_list()))) == whole


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.uniform(-90, 90, 5000),
        lambda rng: rng.normal(15, 8, 5000),
        lambda rng: 1.7e9 + rng.uniform(0, 3e7, 5000),
        lambda rng: rng.lognormal(0, 2, 50_000),
        lambda rng: np.append(rng.normal(15, 8, 5000), np.full(500, -999.0)),
        lambda rng: rng.integers(0, 200, 5000),
    ],
    ids=["uniform", "normal", "epoch", "heavy tail", "missing code", "integers"],
)
def test_quantiles_of_a_number_sketch_are_those_of_the_numbers(draw):
    values = draw(np.random.default_rng(3)).astype(float)
    one = NumberSketch.of(values)
    shares = np.array([0.02, 0.12, 0.25, 0.5, 0.75, 0.9, 0.98])
    quantiles = one.quantiles(shares)
    spread = np.quantile(values, 0.95) - np.quantile(values, 0.05)
    for share, quantile in zip(shares, quantiles, strict=True):
        assert (values < quantile - 0.005 * spread).mean() <= share + 0.01
        assert (values <= quantile + 0.005 * spread).mean() >= share - 0.01
    assert abs(one.mean - values.mean()) < 0.1 * spread


def small_table(rows):
    return pa.table(
        {
            "number": pa.array([r[0] for r in rows], pa.float64()),
            "text": pa.array([r[1] for r in rows], pa.string()),
            "flag": pa.array([r[2] for r in rows], pa.bool_()),
        }
    )


rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.floats(-1e6, 1e6)),
        st.one_of(st.none(), st.sampled_from(["a", "1,5", "2.5;3", "2024-01-31", "NA", "", "é 7"])),
        st.one_of(st.none(), st.booleans()),
    ),
    max_size=30,
)


@settings(max_examples=15, deadline=None)
@given(rows, rows, rows)
def test_merging_table_sketches_is_associative_and_equals_sketching_all_rows(a, b, c):
    x, y, z = (sketch_table(small_table(part)) for part in (a, b, c))
    whole = sketch_table(small_table(a + b + c))
    assert x.merge(y).merge(z).to_dict() == x.merge(y.merge(z)).to_dict()
    assert z.merge(y).merge(x) == whole
    assert TableSketch.from_json(whole.to_json()) == whole
    assert sketch_table([small_table(a), small_table(b), small_table(c)]) == whole


def test_a_table_sketch_reads_the_numbers_dates_and_codes_in_text():
    table = pa.table(
        {
            "position": ["48.1,11.5", "(48.3, 11.7)", "48.2;11.6", None],
            "german": ["1,5", "2,5", "3,5", "NA"],
            "day": ["31/12/2024", "2024-12-31", "01/02/2024", "12/31/2024"],
        }
    )
    columns = sketch_table(table).columns
    latitude, longitude = columns["position"].text.readings["tuple of 2"]
    assert (latitude.low, latitude.high) == (48.1, 48.3)
    assert (longitude.low, longitude.high) == (11.5, 11.7)
    assert columns["position"].missing == 1
    assert columns["german"].text.readings["number with decimal comma"][0].high == 3.5
    assert columns["german"].text.codes == {"NA": 1}
    assert columns["german"].text.shapes.top == {"9,9": 3, "a": 1}
    assert columns["day"].text.dates == {
        "DD/MM/YYYY": 1,
        "YYYY-MM-DD": 1,
        "DD/MM or MM/DD": 1,
        "MM/DD/YYYY": 1,
    }


def test_every_arrow_type_is_sketched():
    table = pa.table(
        {
            "decimal": pa.array([1, 2], pa.decimal128(10, 2)),
            "date": pa.array([0, 1], pa.date32()),
            "stamp": pa.array([0, 86_400_000], pa.timestamp("ms")),
            "span": pa.array([1, 2], pa.duration("s")),
            "word": pa.array(["a", "b"]).dictionary_encode(),
            "list": pa.array([[1], None]),
            "null": pa.nulls(2),
        }
    )
    columns = sketch_table(table).columns
    assert columns["decimal"].numbers.high == 2
    assert columns["date"].numbers.high == columns["stamp"].numbers.high == 86_400
    assert columns["span"].kind == "time"
    assert columns["word"].text.values.top == {"a": 1, "b": 1}
    assert columns["list"].kind == "other"
    assert columns["list"].missing == 1
    assert columns["null"].missing == 2


def test_numbers_that_are_not_finite_are_missing():
    column = sketch_table(pa.table({"x": [1.0, float("nan"), float("inf"), None]})).columns["x"]
    assert column.missing == 3
    assert column.numbers.count == 1


def test_a_column_of_a_table_sketch_stays_within_4_kb():
    draw = random.Random(0)
    table = pa.table(
        {
            "number": [draw.gauss(0, 1) * 10 ** draw.uniform(-9, 9) for _ in range(5000)],
            "pair": [f"{draw.uniform(-90, 90)};{draw.uniform(-180, 180)}" for _ in range(5000)],
            "word": ["".join(draw.choices("abc é9-", k=60)) for _ in range(5000)],
        }
    )
    for column in sketch_table(table).columns.values():
        assert len(json.dumps(column.to_dict(), ensure_ascii=False).encode()) < 4096
