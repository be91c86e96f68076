"""Rows of every packing, on shards in memory and on real ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.files import DataError
from data.packing import document_ids, plans, rows
from data.packing.plans import lay_out
from data.shards import ShardSet, Tokenized
from tests.data.memory_shards import END, MemoryShards
from tests.data.writing import write_shards

PACKINGS = ("chunked", "best_fit", "one_document")


lengths_of_documents = st.lists(st.integers(1, 40), min_size=1, max_size=40)
row_lengths = st.integers(1, 24)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(plans, "WINDOW_TOKENS", 200)
    monkeypatch.setattr(plans, "WINDOW_ROWS", 5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plans")


def targets_of(own):
    """(document, offset) of each target of each row, as `segments` says."""
    return [
        [(s.document, s.offset + i) for s in own.segments(row) for i in range(s.length)]
        for row in range(own.count)
    ]


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of_documents, R=row_lengths)
def test_every_token_is_a_target_once_behind_the_token_before_it(folder, packing, lengths, R):
    shards = MemoryShards(lengths)
    if packing == "chunked" and shards.tokens < R:
        return
    own = rows(shards, packing, R, folder)
    tokens, mask = own.read(np.arange(own.count))
    assert tokens.shape == (own.count, R + 1)
    assert tokens.dtype == np.int64
    seen = []
    for row, valid, targets in zip(tokens, mask, targets_of(own), strict=True):
        assert valid.tolist() == [True] * len(targets) + [False] * (R - len(targets))
        assert (row[1:][~valid] == END).all()
        for t, (document, offset) in enumerate(targets):
            place = shards.offsets[document] + offset
            assert row[t + 1] == shards.ids[place]
            assert row[t] == (shards.ids[place - 1] if offset else END)
        seen += targets
    everything = [(d, i) for d, length in enumerate(lengths) for i in range(length)]
    dropped = shards.tokens % R if packing == "chunked" else 0
    assert sorted(seen) == everything[: len(everything) - dropped]
    assert own.efficiency == pytest.approx(mask.mean())


@pytest.mark.parametrize("packing", PACKINGS)
@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of_documents, R=row_lengths)
def test_rows_of_a_document_are_those_whose_segments_name_it(folder, packing, lengths, R):
    shards = MemoryShards([*lengths, R])
    own = rows(shards, packing, R, folder)
    found = {document: [] for document in range(len(lengths) + 1)}
    for row in range(own.count):
        for segment in own.segments(row):
            found[segment.document].append(row)
    for document, in_rows in found.items():
        assert list(own.rows_of(document)) == in_rows


@settings(max_examples=60, deadline=None)
@given(lengths=lengths_of_documents, R=row_lengths)
def test_only_documents_longer_than_a_row_are_cut_and_only_their_last_piece_has_company(lengths, R):
    plan = lay_out(MemoryShards(lengths).offsets, "best_fit", R, 200)
    sizes = np.split(plan.lengths, plan.ends[1:-1])
    assert len(plan.lengths) == sum(-(-length // R) for length in lengths)
    for in_row in sizes:
        assert in_row.sum() <= R
        assert len(in_row) == 1 or in_row.max() < R


def slow_best_fit(lengths, R):
    """Room left in each row: every row is looked at for every document."""
    rooms = []
    for length in lengths:
        if length > R:
            rooms += [0] * (length // R) + [R - length % R] * (length % R > 0)
    for length in sorted((n for n in lengths if n <= R), reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else R) - length)
    return sorted(rooms)


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60), R=st.integers(1, 50))
def test_rows_are_as_full_as_those_of_a_slow_best_fit(lengths, R):
    offsets = MemoryShards(lengths).offsets
    expected, begin = [], 0
    windows = offsets[:-1] // 200
    for window in np.unique(windows):
        size = int((windows == window).sum())
        expected += slow_best_fit(lengths[begin : begin + size], R)
        begin += size
    plan = lay_out(offsets, "best_fit", R, 200)
    filled = np.add.reduceat(plan.lengths, plan.ends[:-1])
    assert sorted((R - filled).tolist()) == sorted(expected)


def test_rows_that_follow_one_another_start_further_on_and_reach_one_window_at_most():
    draw = np.random.default_rng(0)
    shards = MemoryShards(draw.integers(1, 60, 400))
    plan = lay_out(shards.offsets, "best_fit", 32, 200)
    assert (np.diff(plan.starts[plan.ends[:-1]]) > 0).all()
    for starts in np.split(plan.starts, plan.ends[1:-1]):
        # The first segment may be the last piece of a document that began in the window before.
        documents, _ = shards.document_at(starts)
        assert len({int(offset) // 200 for offset in shards.offsets[documents]}) == 1


def test_best_fit_leaves_little_empty(folder, monkeypatch):
    monkeypatch.setattr(plans, "WINDOW_TOKENS", 100_000)
    draw = np.random.default_rng(0)
    shards = MemoryShards(draw.integers(1, 60, 2000))
    best, alone = (rows(shards, packing, 64, folder) for packing in ("best_fit", "one_document"))
    assert alone.efficiency < 0.5
    assert best.efficiency > 0.98


def test_an_end_of_text_among_the_inputs_opens_the_next_document():
    inputs = np.array([[END, 5, 6, END, END, 7], [8, 9, END, 3, 4, END]])
    ids = document_ids(inputs, END)
    assert ids.tolist() == [[1, 1, 1, 2, 3, 3], [0, 0, 1, 1, 1, 2]]
    assert ids.dtype == np.int32


@pytest.mark.parametrize("packing", PACKINGS)
def test_rows_of_shards_on_the_disk_are_those_of_the_same_tokens_in_memory(tmp_path, packing):
    draw = np.random.default_rng(0)
    memory = MemoryShards(draw.integers(1, 60, 100))
    documents = np.split(memory.ids, memory.offsets[1:-1])
    write_shards(
        tmp_path / "set",
        [Tokenized(ids, bytes(16), f"a.txt:{i}", 1) for i, ids in enumerate(documents)],
        max_id=memory.tokens,
        end_of_text=END,
        shard_tokens=500,
        name="train",
        records="text",
        tokenizer="t",
        settings={},
    )
    disk = rows(ShardSet.open(tmp_path / "set"), packing, 32, tmp_path)
    same = rows(memory, packing, 32, tmp_path)
    chosen = draw.integers(0, same.count, 200)
    for found, expected in zip(disk.read(chosen), same.read(chosen), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
    for row in range(same.count):
        assert disk.segments(row) == same.segments(row)
    for document in range(100):
        assert disk.rows_of(document) == same.rows_of(document)


def test_what_makes_no_rows_is_refused(tmp_path):
    shards = MemoryShards([3, 30, 8, 2, 9, 16])
    with pytest.raises(DataError, match="a row of 69 tokens is longer than train, which has 68"):
        rows(shards, "chunked", 69, tmp_path)
    with pytest.raises(DataError, match=r"data\.packing=best is not"):
        rows(shards, "best", 16, tmp_path)
    with pytest.raises(DataError, match=r"data\.row_tokens must be at least 1"):
        rows(shards, "chunked", 0, tmp_path)
