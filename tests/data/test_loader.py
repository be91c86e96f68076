import itertools
import threading
import time

import numpy as np
import pytest

from data import shards as shards_module
from data.files import DataError
from data.loader import Batch, Loader, evaluation_rows, read_ahead
from data.shards import ShardSet, write_shards

END = 0
T = 10


def shard_set(folder, tokens):
    """A split whose stream is 1, 2, 3 ... with an end of text here and there."""
    ids = np.arange(1, tokens + 1)
    ids[9::37] = END
    ids[-1] = END
    ends = np.flatnonzero(ids == END) + 1
    documents = np.split(ids, ends[:-1])
    write_shards(
        folder,
        documents,
        name="train",
        text_bytes=1,
        max_id=tokens,
        end_of_text=END,
        tokenizer="t",
        settings={},
        shard_tokens=300,
    )
    return ShardSet.open(folder)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return shard_set(tmp_path_factory.mktemp("loader") / "set", 1007)


@pytest.fixture(scope="module")
def stream(shards):
    return np.concatenate([[END], shards.read(0, shards.tokens)]).astype(np.int64)


def no_reader_left():
    return not any(thread.name == "read-ahead" for thread in threading.enumerate())


def test_rows_are_strides_of_the_stream_and_the_rest_is_counted(shards, stream):
    loader = Loader(shards, T, seed=3)
    assert (loader.samples, loader.dropped_tokens) == (100, 7)
    batch = loader.rows(np.arange(100))
    assert batch.tokens.shape == (100, T + 1)
    assert batch.tokens.dtype == np.int64
    assert batch.loss_mask.all()
    for row, i in zip(batch.tokens, batch.sample_ids, strict=True):
        np.testing.assert_array_equal(row, stream[i * T : i * T + T + 1])
    # Targets of an epoch: every token that isn't dropped, once.
    order = np.argsort(batch.sample_ids)
    np.testing.assert_array_equal(batch.tokens[order, 1:].ravel(), stream[1:1001])


def take(loader, steps, **arguments):
    iterator = loader.stream(**arguments)
    items = list(itertools.islice(iterator, steps))
    iterator.close()
    return items


def ids_of(items):
    return [batch.sample_ids.tolist() for step in items for batch in step]


def test_each_epoch_has_every_row_once_and_batches_straddle_epochs(shards):
    loader = Loader(shards, T, seed=0)
    items = take(
        loader, 25, position=0, global_batch=12, micro_batch=4, rank=0, world_size=1, prefetch=2
    )
    seen = np.concatenate([batch.sample_ids for step in items for batch in step])
    for epoch in range(3):
        assert sorted(seen[epoch * 100 : (epoch + 1) * 100].tolist()) == list(range(100))
    assert seen[:100].tolist() != seen[100:200].tolist()
    assert [step[0].position for step in items] == list(range(0, 300, 12))


def test_resuming_is_starting_at_a_later_position(shards):
    loader = Loader(shards, T, seed=0)
    settings = {"global_batch": 8, "micro_batch": 4, "rank": 0, "world_size": 1}
    whole = take(loader, 20, position=0, **settings)
    rest = take(Loader(shards, T, seed=0), 7, position=13 * 8, **settings)
    for a, b in zip(whole[13:], rest, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x.tokens, y.tokens)
            assert x.position == y.position


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_micro_batches_of_a_step_do_not_depend_on_the_number_of_ranks(shards, world_size):
    loader = Loader(shards, T, seed=0)
    settings = {"position": 96, "global_batch": 12, "micro_batch": 2}
    alone = take(loader, 3, rank=0, world_size=1, **settings)
    ranks = [take(loader, 3, rank=r, world_size=world_size, **settings) for r in range(world_size)]
    for step in range(3):
        assert {len(items[step]) for items in ranks} == {6 // world_size}
        for k, batch in enumerate(alone[step]):
            other = ranks[k % world_size][step][k // world_size]
            np.testing.assert_array_equal(batch.tokens, other.tokens)
            assert batch.position == other.position


def test_reading_ahead_changes_nothing(shards):
    loader = Loader(shards, T, seed=0)
    settings = {"position": 5, "global_batch": 6, "micro_batch": 3, "rank": 0, "world_size": 1}
    plain = take(loader, 30, prefetch=0, **settings)
    assert ids_of(plain) == ids_of(take(loader, 30, prefetch=4, **settings))


def test_seeds_give_different_orders(shards):
    a, b = (Loader(shards, T, seed=s).rows(np.arange(100)).sample_ids for s in (0, 1))
    assert (a == b).mean() < 0.1


def test_a_batch_that_can_not_be_cut_is_refused_with_the_nearest(shards):
    loader = Loader(shards, T, seed=0)
    with pytest.raises(ValueError, match=r"global_batch_size=30 .* 4 x 2 = 8; nearest: 24, 32"):
        loader.stream(0, global_batch=30, micro_batch=4, rank=0, world_size=2)
    with pytest.raises(ValueError, match="rank=2 < world_size=2"):
        loader.stream(0, global_batch=8, micro_batch=4, rank=2, world_size=2)


def test_closing_ends_the_thread_at_once(shards):
    iterator = Loader(shards, T, seed=0).stream(0, 4, 4, 0, 1, prefetch=1)
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
    iterator = Loader(opened, T, seed=0).stream(0, 8, 8, 0, 1)
    with pytest.raises(DataError, match=r"shard-00000\.arrow"):
        list(itertools.islice(iterator, 10))


def test_a_sequence_longer_than_the_corpus_is_refused(shards):
    assert Loader(shards, 1007, seed=0).samples == 1
    message = r"data.sequence_length=4096 is longer than the corpus: train has 1007 tokens; .*=1007"
    with pytest.raises(DataError, match=message):
        Loader(shards, 4096, seed=0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("micro_batch", [1, 4, 64])
@pytest.mark.parametrize("length", [10, 19, 2000])
def test_evaluation_predicts_every_token_once_in_equal_turns(
    shards, stream, world_size, micro_batch, length
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
                np.testing.assert_array_equal(row[: t + 1], stream[i * length : place])
                found[place] = row[t + 1]
    assert [found[i] for i in range(1, len(stream))] == stream[1:].tolist()


def test_a_corpus_beyond_the_cache_is_read_in_blocks_and_still_once_each(tmp_path, monkeypatch):
    for module in ("data.loader", "data.shards"):
        monkeypatch.setattr(f"{module}.BLOCK_BYTES", 64)
        monkeypatch.setattr(f"{module}.CACHE_BLOCKS", 32)
    monkeypatch.setattr("data.loader.LANES", 4)
    opened = shard_set(tmp_path / "set", 5000)
    assert shards_module.BLOCK_BYTES == 64
    loader = Loader(opened, T, seed=0)
    assert (loader.order.block, loader.order.lanes) == (3, 4)
    ids = loader.rows(np.arange(loader.samples)).sample_ids
    assert sorted(ids.tolist()) == list(range(loader.samples))
