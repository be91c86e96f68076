import numpy as np
import pytest

from data.config import DataConfig, PhaseConfig, SourceConfig
from data.feed.loader import Loader
from data.feed.stream import Stream
from data.files import DataError
from data.order.mixture import MIXTURE_BLOCK
from data.order.state import Exclusion
from data.shards import ShardSet
from data.shards.blocks import BadBlock
from tests.data.numbered import shard_set

T = 10


def mixture_of(phases=(), **settings):
    return DataConfig(
        datasets={
            "big": SourceConfig(source="text", path="b", weight=3),
            "small": SourceConfig(source="text", path="s", weight=1),
        },
        phases=list(phases),
        sequence_length=T,
        **settings,
    )


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stream")
    return {
        "big": shard_set(folder / "big", 1000, name="big"),
        "small": shard_set(folder / "small", 200, every=23, name="small"),
    }


def test_a_mixture_draws_its_datasets_by_weight_each_epoch_of_each_whole(sets):
    stream = Stream.open(sets, mixture_of())
    samples = stream.samples(T * np.arange(MIXTURE_BLOCK), T)
    assert np.bincount(samples.dataset).tolist() == [3 * MIXTURE_BLOCK // 4, MIXTURE_BLOCK // 4]
    for number, rows in enumerate((100, 20)):
        chosen = samples.dataset == number
        for epoch in range(int(samples.epoch[chosen].max())):
            own = samples.row[chosen & (samples.epoch == epoch)]
            assert sorted(own.tolist()) == list(range(rows))


def test_the_tokens_of_a_mixture_are_those_of_its_datasets(sets):
    stream = Stream.open(sets, mixture_of())
    samples = stream.samples(T * np.arange(300), T)
    tokens, mask, readable = stream.read(samples, T)
    assert mask.all()
    assert readable.all()
    for i in range(300):
        own = stream.rows[stream.names[samples.dataset[i]]]
        np.testing.assert_array_equal(tokens[i], own.read(samples.row[i : i + 1])[0][0])


def test_an_appended_phase_leaves_the_past_as_it_was(sets):
    before = Stream.open(sets, mixture_of())
    after = Stream.open(sets, mixture_of([PhaseConfig(MIXTURE_BLOCK, {"small": 1})]))
    cursors = T * np.arange(2 * MIXTURE_BLOCK)
    old, new = before.samples(cursors, T), after.samples(cursors, T)
    for name in ("dataset", "epoch", "row", "part"):
        a, b = getattr(old, name), getattr(new, name)
        np.testing.assert_array_equal(a[:MIXTURE_BLOCK], b[:MIXTURE_BLOCK])
    assert set(new.dataset[MIXTURE_BLOCK:].tolist()) == {1}


@pytest.mark.parametrize(
    ("phase", "said"),
    [
        (PhaseConfig(4096, {"smal": 1}), "did you mean small"),
        (PhaseConfig(4096, {"small": 0}), "at least 1"),
        (PhaseConfig(5000, {"small": 1}), "nearest: 4096, 8192"),
    ],
)
def test_a_schedule_that_can_not_be_followed_is_refused(sets, phase, said):
    with pytest.raises(DataError, match=said):
        Stream.open(sets, mixture_of([phase]))


@pytest.fixture
def damaged(tmp_path):
    """A set with one bit flipped in its second shard, and the tokens of the bad block."""
    shard_set(tmp_path / "set", 2000, shard_tokens=700)
    path = tmp_path / "set" / "shard-00001.arrow"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    opened = ShardSet.open(tmp_path / "set")
    with pytest.raises(BadBlock) as caught:
        opened.read(0, opened.tokens)
    return tmp_path / "set", caught.value.start, caught.value.stop


def test_a_bad_block_stops_the_stream_by_default(damaged):
    folder, _, _ = damaged
    loader = Loader(Stream.open({"data": ShardSet.open(folder)}, DataConfig(sequence_length=T)), T)
    with pytest.raises(BadBlock, match=r"shard-00001\.arrow"):
        loader.batch(T * np.arange(200))


def test_skipping_masks_exactly_the_rows_that_touch_the_bad_block(damaged):
    folder, start, stop = damaged
    config = DataConfig(sequence_length=T, on_bad_block="skip")
    stream = Stream.open({"data": ShardSet.open(folder)}, config)
    batch = Loader(stream, T).batch(T * np.arange(200))
    for row, mask, readable in zip(batch.samples.row, batch.loss_mask, batch.readable, strict=True):
        # Row r reads tokens r*T - 1 .. r*T + T of the shards: its context and its targets.
        assert readable == (row * T + T <= start or row * T - 1 >= stop)
        assert mask.all() == readable
        assert mask.any() == readable
    assert [(own.start, own.stop) for own in stream.damage] == [(start, stop)]


def test_what_was_excluded_once_is_skipped_after_the_file_is_whole_again(damaged):
    folder, start, stop = damaged
    config = DataConfig(sequence_length=T, on_bad_block="skip")
    whole = Stream.open(
        {"data": shard_set(folder.parent / "whole", 2000, shard_tokens=700)}, config
    )

    whole.exclude([Exclusion("data", start, stop, since=0)])
    batch = Loader(whole, T).batch(T * np.arange(200))
    targets = batch.samples.row * T
    np.testing.assert_array_equal(batch.readable, (targets + T <= start) | (targets >= stop))
