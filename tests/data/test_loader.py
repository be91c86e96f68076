import itertools
import threading
import time

import numpy as np
import pytest

from data.config import DataConfig
from data.feed.loader import Batch, Loader, evaluation_rows, read_ahead
from data.feed.stream import Stream
from data.files import DataError
from tests.data.numbered import END, shard_set

T = 10


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return shard_set(tmp_path_factory.mktemp("loader") / "set", 1007)


@pytest.fixture(scope="module")
def text(shards):
    """The stream of the split: one end of text and then the tokens."""
    return np.concatenate([[END], shards.read(0, shards.tokens)]).astype(np.int64)


def loader_of(shards, length=T, seed=0, **settings):
    config = DataConfig(sequence_length=length, seed=seed, **settings)
    return Loader(
        Stream.open({"data": shards}, config), length, isolate_documents=config.isolate_documents
    )


def rows_of(batches):
    """(epoch, row, part) of each sequence."""
    return [
        own
        for batch in batches
        for own in zip(
            batch.samples.epoch.tolist(),
            batch.samples.row.tolist(),
            batch.samples.part.tolist(),
            strict=True,
        )
    ]


def no_reader_left():
    return not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_rows_are_strides_of_the_text_and_the_rest_is_left_out(shards, text):
    batch = loader_of(shards, seed=3).batch(T * np.arange(100))
    assert batch.tokens.shape == (100, T + 1)
    assert batch.tokens.dtype == np.int64
    assert batch.loss_mask.all()
    assert batch.readable.all()
    for row, i in zip(batch.tokens, batch.samples.row, strict=True):
        np.testing.assert_array_equal(row, text[i * T : i * T + T + 1])
    # Targets of an epoch: every token that isn't left out, once.
    order = np.argsort(batch.samples.row)
    np.testing.assert_array_equal(batch.tokens[order, 1:].ravel(), text[1:1001])


def take(loader, steps, **arguments):
    iterator = loader.stream(**arguments)
    items = list(itertools.islice(iterator, steps))
    iterator.close()
    return items


def flat(items):
    return [batch for step in items for batch in step]


def test_each_epoch_has_every_row_once_and_batches_straddle_epochs(shards):
    items = take(
        loader_of(shards), 25, cursor=0, global_batch=12, micro_batch=4, rank=0, world_size=1
    )
    seen = rows_of(flat(items))
    assert sorted(seen) == [(epoch, row, 0) for epoch in range(3) for row in range(100)]
    first, second = ([row for e, row, _ in seen if e == epoch] for epoch in (0, 1))
    assert first != second
    assert [step[0].sample_ids[0] for step in items] == list(range(0, 300, 12))


def test_resuming_is_starting_at_a_later_position(shards):
    settings = {"global_batch": 8, "micro_batch": 4, "rank": 0, "world_size": 1}
    whole = take(loader_of(shards), 20, cursor=0, **settings)
    rest = take(loader_of(shards), 7, cursor=13 * 8 * T, **settings)
    for a, b in zip(whole[13:], rest, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x.tokens, y.tokens)
            assert x.sample_ids[0] == y.sample_ids[0]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_micro_batches_of_a_step_do_not_depend_on_the_number_of_ranks(shards, world_size):
    loader = loader_of(shards)
    settings = {"cursor": 96 * T, "global_batch": 12, "micro_batch": 2}
    alone = take(loader, 3, rank=0, world_size=1, **settings)
    ranks = [take(loader, 3, rank=r, world_size=world_size, **settings) for r in range(world_size)]
    for step in range(3):
        assert {len(items[step]) for items in ranks} == {6 // world_size}
        for k, batch in enumerate(alone[step]):
            other = ranks[k % world_size][step][k // world_size]
            np.testing.assert_array_equal(batch.tokens, other.tokens)
            assert batch.sample_ids[0] == other.sample_ids[0]


def test_reading_ahead_changes_nothing(shards):
    loader = loader_of(shards)
    settings = {"cursor": 50, "global_batch": 6, "micro_batch": 3, "rank": 0, "world_size": 1}
    plain = take(loader, 30, prefetch=0, **settings)
    assert rows_of(flat(plain)) == rows_of(flat(take(loader, 30, prefetch=4, **settings)))


def test_seeds_give_different_orders(shards):
    a, b = (loader_of(shards, seed=s).batch(T * np.arange(100)).samples.row for s in (0, 1))
    assert (a == b).mean() < 0.1


def test_a_batch_that_can_not_be_cut_is_refused_with_the_nearest(shards):
    loader = loader_of(shards)
    with pytest.raises(ValueError, match=r"global_batch_size=30 .* 4 x 2 = 8; nearest: 24, 32"):
        loader.stream(0, global_batch=30, micro_batch=4, rank=0, world_size=2)
    with pytest.raises(ValueError, match="rank=2 < world_size=2"):
        loader.stream(0, global_batch=8, micro_batch=4, rank=2, world_size=2)
    with pytest.raises(ValueError, match=r"cursor=15 must be a multiple of .*=10"):
        loader.stream(15, global_batch=8, micro_batch=4, rank=0, world_size=1)


def test_closing_ends_the_thread_at_once(shards):
    iterator = loader_of(shards).stream(0, 4, 4, 0, 1, prefetch=1)
    next(iterator)
    assert not no_reader_left()
    started = time.monotonic()
    iterator.close()
    assert no_reader_left()
    assert time.monotonic() - started < 2


def test_the_queue_is_bounded():
    made = []

    def items():
        for i in itertools.count():
            made.append(i)
            yield []

    iterator = read_ahead(items(), 3)
    next(iterator)
    time.sleep(0.3)
    iterator.close()
    assert len(made) <= 1 + 3 + 1 + 1  # taken, waiting, in the thread's hand


def test_an_error_in_the_thread_reaches_the_consumer_in_its_turn():
    def items():
        yield ["first"]
        raise DataError("shard-00000.arrow is torn")

    iterator = read_ahead(items(), 2)
    assert next(iterator) == ["first"]
    with pytest.raises(DataError, match="torn"):
        next(iterator)
    assert no_reader_left()


def test_a_finite_stream_ends():
    assert list(read_ahead(iter([["a"], ["b"]]), 1)) == [["a"], ["b"]]
    assert no_reader_left()


def test_a_flipped_byte_on_the_disk_stops_the_training_stream(tmp_path):
    opened = shard_set(tmp_path / "set", 500)
    path = tmp_path / "set" / "shard-00000.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 2 // 3] ^= 1
    path.write_bytes(raw)
    iterator = loader_of(opened).stream(0, 8, 8, 0, 1)
    with pytest.raises(DataError, match=r"shard-00000\.arrow"):
        list(itertools.islice(iterator, 10))


def test_a_sequence_longer_than_the_corpus_is_refused(shards):
    assert loader_of(shards, 1007).source.rows["data"].count == 1
    message = r"data.sequence_length=4096 is longer than .* 1,007 tokens; .*sequence_length=1007"
    with pytest.raises(DataError, match=message):
        loader_of(shards, 4096)


def test_the_parts_of_a_row_are_its_sequences_and_may_change_their_length(shards, text):
    whole = loader_of(shards, 20).batch(20 * np.arange(50))
    stream = loader_of(shards, 20).source
    halves = Loader(stream, 10).batch(10 * np.arange(100))
    np.testing.assert_array_equal(halves.tokens[0::2, :-1], whole.tokens[:, :10])
    np.testing.assert_array_equal(halves.tokens[1::2], whole.tokens[:, 10:])
    with pytest.raises(DataError, match=r"sequence_length=15 must divide data.row_tokens=20"):
        Loader(stream, 15)


def test_isolated_documents_are_numbered_from_each_end_of_text(shards):
    batch = loader_of(shards, isolate_documents=True).batch(T * np.arange(100))
    inputs = batch.tokens[:, :-1]
    for row, documents in zip(inputs, batch.documents, strict=True):
        for t in range(1, T):
            assert (documents[t] != documents[t - 1]) == (row[t] == END)
    assert loader_of(shards).batch(T * np.arange(3)).documents is None


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("micro_batch", [1, 4, 64])
@pytest.mark.parametrize("length", [10, 19, 2000])
def test_evaluation_predicts_every_token_once_in_equal_turns(
    shards, text, world_size, micro_batch, length
):
    ranks = [
        list(evaluation_rows(shards, length, rank, world_size, micro_batch))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    found = {}
    for batch in itertools.chain(*ranks):
        assert isinstance(batch, Batch)
        assert batch.tokens.shape == (micro_batch, length + 1)
        assert (batch.tokens[:, 1:][~batch.loss_mask] == END).all()
        for row, mask, i in zip(batch.tokens, batch.loss_mask, batch.sample_ids, strict=True):
            for t in np.flatnonzero(mask):
                place = i * length + t + 1
                assert place not in found
                np.testing.assert_array_equal(row[: t + 1], text[i * length : place])
                found[place] = row[t + 1]
    assert [found[i] for i in range(1, len(text))] == text[1:].tolist()


def test_a_corpus_beyond_the_cache_is_read_in_blocks_and_still_once_each(tmp_path, monkeypatch):
    monkeypatch.setattr("data.feed.stream.BLOCK_BYTES", 64)
    monkeypatch.setattr("data.packing.packings.BLOCK_BYTES", 64)
    monkeypatch.setattr("data.feed.stream.CACHE_BLOCKS", 32)
    monkeypatch.setattr("data.feed.stream.LANES", 4)
    loader = loader_of(shard_set(tmp_path / "set", 5000))
    order = loader.source.mixture.orders["data"]
    assert (order.block, order.lanes) == (3, 4)
    batch = loader.batch(T * np.arange(500))
    assert sorted(batch.samples.row.tolist()) == list(range(500))
