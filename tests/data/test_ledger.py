import random
from itertools import islice

import numpy as np
import pytest

from data.config import DataConfig, SourceConfig
from data.feed.ledger import Ledger, check_prefix
from data.feed.loader import Loader
from data.feed.stream import Damage, Stream
from data.order.multiset import dataset_keys
from data.order.state import DataState
from tests.data.numbered import shard_set

T, BATCH = 8, 24


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    return {
        "a": shard_set(folder / "a", 900, name="a"),
        "b": shard_set(folder / "b", 333, every=11, name="b"),
    }


def open_stream(sets):
    source = {"source": "text", "path": "p"}
    datasets = {"a": SourceConfig(**source, weight=2), "b": SourceConfig(**source)}
    return Stream.open(sets, DataConfig(datasets=datasets, sequence_length=T))


def begin(stream):
    return DataState.begin(
        stream.mixture,
        stream.fingerprints,
        row_tokens=T,
        packing="chunked",
        global_batch_size=BATCH,
        sequence_length=T,
    )


def one_life(sets, state, world_size, steps, crash):
    """Train `steps` steps on so many ranks, commit, and crash some steps later, uncommitted."""
    ledgers, delivered = [], []
    for rank in range(world_size):
        stream = open_stream(sets)
        ledger = Ledger(stream, state)
        loader = Loader(stream, T)
        batches = loader.stream(state.cursor, BATCH, 2, rank, world_size, prefetch=0)
        for micro_batches in islice(batches, steps):
            ledger.add(micro_batches)
            delivered += [tuple(row) for batch in micro_batches for row in batch.tokens.tolist()]
        ledgers.append((ledger, batches))
    gathered = [number for ledger, _ in ledgers for number in ledger.sums]
    committed = [ledger.commit(gathered, []) for ledger, _ in ledgers]
    assert all(own == committed[0] for own in committed)  # all ranks hold the same state
    for ledger, batches in ledgers:  # trained on, but lost with the crash
        for micro_batches in islice(batches, crash):
            ledger.add(micro_batches)
    return committed[0], delivered


def test_crashes_and_changing_numbers_of_workers_lose_and_repeat_nothing(sets):
    draw = random.Random(5)
    whole, uninterrupted = one_life(sets, begin(open_stream(sets)), 1, 40, 0)
    for _ in range(5):
        state, delivered = begin(open_stream(sets)), []
        while state.step < 40:
            steps = min(draw.randint(1, 9), 40 - state.step)
            state, more = one_life(
                sets, state, draw.choice((1, 2, 3, 4, 6)), steps, draw.randint(0, 3)
            )
            delivered += more
        assert state == whole
        assert sorted(delivered) == sorted(uninterrupted)
    assert check_prefix(open_stream(sets), whole, most_rows=10**6) is None


@pytest.mark.parametrize("fault", ["lost", "repeated"])
def test_a_lost_or_repeated_sequence_shows_in_the_sum(sets, fault):
    stream = open_stream(sets)
    ledger = Ledger(stream, begin(stream))
    batches = next(Loader(stream, T).stream(0, BATCH, 2, 0, 1, prefetch=0))
    ledger.add(batches[:-1] if fault == "lost" else [*batches[:-1], batches[0]])
    state = ledger.commit(ledger.sums, [])
    assert "lost or repeated" in check_prefix(stream, state, most_rows=10**6)
    assert check_prefix(stream, state, most_rows=1) is None  # too long to recount


def test_skipped_sequences_complete_the_sum_and_damage_is_an_exclusion(sets):
    stream = open_stream(sets)
    ledger = Ledger(stream, begin(stream))
    batch = Loader(stream, T).batch(T * np.arange(BATCH))
    batch.readable[3:7] = False
    ledger.add([batch])

    state = ledger.commit(ledger.sums, [Damage("a", 100, 150), Damage("a", 100, 150)])
    assert state.skipped.sequences == 4
    expected = stream.expected(dataset_keys(stream.fingerprints), state.cursor)
    assert state.covered == expected != state.multiset
    assert [(own.dataset, own.start, own.stop) for own in state.exclusions] == [("a", 100, 150)]
    assert check_prefix(stream, state, most_rows=10**6) is None
    again = Ledger(stream, state).commit([0] * 5, [Damage("a", 100, 150)])
    assert again.exclusions == state.exclusions
