"""The same training whatever the number of ranks, also when it changes at a checkpoint.

Real shards, loader, ledger, engine and checkpoints, on 1, 2 and 4 processes over gloo.
"""

import hashlib
from contextlib import closing

import numpy as np
import pytest

from data import DataConfig, Loader, ShardSet, Stream
from data.feed.ledger import Ledger, check_prefix
from data.order.state import DataState
from data.shards import Tokenized
from orchestrator.stages.language.resuming import initial_state
from orchestrator.training import checkpoint, distributed
from orchestrator.training.checkpoint import SavedRole
from tests.data.writing import write_shards
from tests.orchestrator import tiny
from tests.orchestrator.ranks import World

STEPS, LEG = 20, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    draw = np.random.default_rng(3)
    documents = []
    for number in range(90):
        ids = np.append(np.sort(draw.integers(1, tiny.VOCAB, 30)), 0)
        documents.append(Tokenized(ids, number.to_bytes(16, "big"), f"made:{number}", 1))
    write_shards(
        folder / "set",
        documents,
        name="train",
        records="text",
        max_id=tiny.VOCAB - 1,
        end_of_text=0,
        tokenizer="t",
        settings={},
        shard_tokens=500,
    )
    (folder / "tokenizer.json").write_text("{}")
    return folder


def leg(folder, root, first, last):
    """Train steps first+1..last from the checkpoint of step `first`; losses, batches, state."""
    config = tiny.job("zero1", distributed.world_size())
    config.stage.micro_batch_size = 2
    shards = ShardSet.open(folder / "set")
    stream = Stream.open({"data": shards}, DataConfig(sequence_length=tiny.T, seed=7))
    trainer, state = tiny.build(config), initial_state(config, stream)
    if first:
        start = checkpoint.find(root / checkpoint.folder_name(first))
        trainer.load_state(checkpoint.open_role(start), start.step)
        state = start.data
    ledger, losses, batches = Ledger(stream, state), [], []

    def trained(micro_batches):
        ledger.add(micro_batches)
        batches.append([hashlib.sha256(b.tokens.tobytes()).hexdigest() for b in micro_batches])

    def save(step):
        sums = [own for rank in distributed.gather_objects(ledger.sums) for own in rank]
        facts = {"data": ledger.commit(sums, []).to_dict()}
        roles = {"model": SavedRole(trainer.state, config.model, "adamw")}
        checkpoint.save(root, step, roles, folder / "tokenizer.json", facts)

    steps = Loader(stream, tiny.T).stream(
        state.cursor, 8, 2, distributed.rank(), distributed.world_size()
    )
    with closing(steps):
        tiny.run(
            config,
            trainer,
            last,
            start=first,
            batches=steps,
            log=lambda step, metrics: losses.append(metrics["train/loss"]),
            trained=trained,
            save=save,
        )
    problem = check_prefix(stream, ledger.state, most_rows=10**6)
    return losses, batches, ledger.state.to_dict(), problem


def in_order(answers):
    """Micro-batches of each step in the order of their groups, put together from all ranks."""
    ranks = [batches for _, batches, _, _ in answers]
    return [
        [own for together in zip(*step, strict=True) for own in together]
        for step in zip(*ranks, strict=True)
    ]


def test_ranks_1_2_4_1_train_as_one_rank_that_was_never_stopped(folder, one, two):
    four = World(4)
    try:
        whole = one.run(leg, folder, folder / "whole", 0, STEPS)
        losses, batches = [], []
        for number, world in enumerate((one, two, four, one)):
            first = number * LEG
            answers = world.run(leg, folder, folder / "legs", first, first + LEG)
            losses += answers[0][0]
            batches += in_order(answers)
            assert all(answer[3] is None for answer in answers)
    finally:
        four.stop()
    assert batches == in_order(whole)  # the same tokens in the same micro-batches, bit for bit
    # What is left is the order in which gradients are added up over ranks, in fp32.
    assert losses == pytest.approx(whole[0][0], rel=2e-6)
    assert losses[-1] < losses[0]
    state = DataState.from_dict(answers[0][2])
    assert state == DataState.from_dict(whole[0][2])
    assert state.step == STEPS
