"""The examples of a split in micro-batches: those of training steps, and those of an evaluation.

B examples of a micro-batch, F features, O numbers to tell.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.order import Ids, Order
from orchestrator.stages.examples.splits import Split, Targets


@dataclass(frozen=True)
class Batch:
    """Examples of one forward pass."""

    features: NDArray[np.float32]
    """(B, F)."""
    labels: Targets
    """(B,) or (B, O)."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""
    counted: NDArray[np.bool_]
    """(B,): which are examples, and no filling."""

    @property
    def weight(self) -> int:
        """Examples."""
        return int(self.counted.sum())


def steps(
    split: Split,
    order: Order,
    position: int,
    global_batch_size: int,
    micro: int,
    rank: int,
    world_size: int,
) -> Iterator[list[Batch]]:
    """This rank's micro-batches of one optimizer step after another, without an end.

    The run is one line of positions, an epoch after the other: step s takes the next
    `global_batch_size` of them, whatever the number of ranks, so that each epoch shows each
    example once.

    Args:
        split: to train on.
        order: of its examples.
        position: the first of the first step.
        global_batch_size: examples of a step, a multiple of micro x world_size.
        micro: examples of a micro-batch.
        rank: takes every world_size-th micro-batch.
        world_size: number of ranks.
    """
    while True:
        line = np.arange(position, position + global_batch_size).reshape(-1, micro)
        yield [_batch(split, order(own), own) for own in line[rank::world_size]]
        position += global_batch_size


def evaluation(split: Split, micro: int, rank: int, world_size: int) -> Iterator[Batch]:
    """This rank's share of a whole split, each example once over all ranks.

    Every rank gets as many batches of the same sizes, as ZeRO 3 demands; what a rank lacks is
    filled up with the last example, which does not count.
    """
    each = -(-len(split) // world_size)
    places = np.arange(rank, each * world_size, world_size)
    for start in range(0, each, micro):
        own = places[start : start + micro]
        rows = np.minimum(own, len(split) - 1)
        yield _batch(split, rows, rows, own < len(split))


def _batch(
    split: Split, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_] | None = None
) -> Batch:
    counted = np.ones(len(rows), dtype=np.bool_) if counted is None else counted
    return Batch(*split.take(rows), sample_ids, counted)
