"""Readers in processes of their own are killed while they work; others go on from the last commit.

What a commit covers must be what an undisturbed run has read until then, each sequence once.
"""

import multiprocessing
import os
import random
import signal

import numpy as np
import pytest

from data.config import DataConfig, SourceConfig
from data.feed.ledger import Ledger, check_prefix
from data.feed.loader import Loader
from data.feed.stream import Stream
from data.order.multiset import Multiset
from data.order.state import DataState
from data.shards import ShardSet
from tests.data.numbered import shard_set

T, BATCH, STEPS = 8, 24, 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exactly-once")
    shard_set(folder / "a", 5000, name="a")
    shard_set(folder / "b", 777, every=11, name="b")
    return folder


def open_stream(folder):
    source = {"source": "text", "path": "p"}
    datasets = {"a": SourceConfig(**source, weight=3), "b": SourceConfig(**source)}
    sets = {name: ShardSet.open(folder / name) for name in datasets}
    return Stream.open(sets, DataConfig(datasets=datasets, sequence_length=T, seed=1))


def begin(stream):
    return DataState.begin(
        stream.mixture,
        stream.fingerprints,
        row_tokens=T,
        packing="chunked",
        global_batch_size=BATCH,
        sequence_length=T,
    )


def reader(folder, state, rank, world_size, pipe):
    """One rank: a step at each word of the coordinator, answered with what it read and its sums."""
    stream = open_stream(folder)
    ledger = Ledger(stream, DataState.from_dict(state))
    for batches in Loader(stream, T).stream(ledger.state.cursor, BATCH, 2, rank, world_size):
        pipe.recv()
        ledger.add(batches)
        rows = [tuple(row) for batch in batches for row in batch.tokens.tolist()]
        pipe.send((rows, ledger.sums))


def one_life(context, folder, state, draw):
    """Readers on a random number of ranks, then SIGKILL in the middle of a step.

    Returns the state of the last commit and what was read until then.
    """
    world_size = draw.choice((1, 2, 3, 4))
    pipes, processes = [], []
    for rank in range(world_size):
        ours, theirs = context.Pipe()
        arguments = (folder, state.to_dict(), rank, world_size, theirs)
        processes.append(context.Process(target=reader, args=arguments))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    committed, kept, waiting = state, [], []
    steps, every = min(draw.randint(3, 25), STEPS - state.step), draw.randint(1, 6)
    for done in range(1, steps + 1):
        for pipe in pipes:
            pipe.send("step")
        answers = [pipe.recv() for pipe in pipes]
        waiting += [row for rows, _ in answers for row in rows]
        if done % every == 0 or state.step + done == STEPS:
            trained = Multiset()
            for _, (first, second, *_) in answers:
                trained = trained.combine(first, second)
            committed = state.advanced(done, trained)
            kept, waiting = kept + waiting, []
    for pipe in pipes[: draw.randint(0, world_size)]:
        pipe.send("step")  # trained on by some, never committed
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    return committed, kept


def test_killed_readers_on_changing_numbers_of_ranks_read_each_sequence_once(folder):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data.loader", "data.ledger", "data.order.state"])
    draw = random.Random(11)
    stream = open_stream(folder)
    state, seen, lives = begin(stream), [], 0
    while state.step < STEPS:
        state, rows = one_life(context, folder, state, draw)
        seen += rows
        lives += 1
    assert lives > 4
    tokens, _, _ = stream.read(stream.samples(T * np.arange(BATCH * STEPS), T), T)
    assert sorted(seen) == sorted(map(tuple, tokens.tolist()))
    assert check_prefix(stream, state, most_rows=10**6) is None
