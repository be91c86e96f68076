"""The order in which examples are seen, cut into steps, micro-batches and ranks.

B examples of a micro-batch.
"""

from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.order import Ids, Order
from orchestrator.training.objectives import MicroBatch

Batch = TypeVar("Batch", bound=MicroBatch)
Made = TypeVar("Made", bound=MicroBatch, covariant=True)


class Split(Protocol[Made]):
    """Examples that micro-batches are made of."""

    def __len__(self) -> int:
        """Number of them."""

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Made:
        """The micro-batch of some examples.

        Args:
            rows: (B,) their places in the split.
            sample_ids: (B,) their positions in the run; in an evaluation, places in the split.
            counted: bool (B,) which of them count; the others fill the batch up.
        """


def steps(
    split: Split[Batch],
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
    counted = np.ones(micro, dtype=np.bool_)
    while True:
        line = np.arange(position, position + global_batch_size).reshape(-1, micro)
        yield [split.batch(order(own), own, counted) for own in line[rank::world_size]]
        position += global_batch_size


def evaluation(split: Split[Batch], micro: int, rank: int, world_size: int) -> Iterator[Batch]:
    """This rank's share of a whole split, each example once over all ranks.

    Every rank gets as many batches of the same sizes, as ZeRO 3 demands; what a rank lacks is
    filled up with the last example, which does not count.
    """
    each = -(-len(split) // world_size)
    places = np.arange(rank, each * world_size, world_size)
    for start in range(0, each, micro):
        own = places[start : start + micro]
        rows = np.minimum(own, len(split) - 1)
        yield split.batch(rows, rows, own < len(split))
