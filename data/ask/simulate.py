"""What reading a job's data on N hosts will cost, counted on its real order before it starts.

Each host keeps the blocks it used last; a block that it has not is fetched. The same order, blocks
and grouping as in the job; only the bytes are left out.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.feed.stream import Stream
from data.packing import Rows
from data.shards.blocks import HASH_BYTES


@dataclass(frozen=True)
class Fetches:
    """Block reads of a stretch of a job."""

    hosts: int
    steps: int
    useful_bytes: int
    """Stored bytes of the tokens that were trained on."""
    fetched_bytes: tuple[int, ...]
    """By each host."""
    peak_blocks: int
    """Most blocks of HASH_BYTES that a host kept."""

    @property
    def amplification(self) -> float:
        """Bytes fetched by all hosts per useful byte."""
        return sum(self.fetched_bytes) / self.useful_bytes

    def seconds_per_step(self, bytes_per_second: float) -> float:
        """Time in which the busiest host fetches what one step needs, at a given rate per host."""
        return max(self.fetched_bytes) / self.steps / bytes_per_second


def simulate(
    stream: Stream,
    *,
    hosts: int,
    workers: int,
    global_batch: int,
    micro_batch: int,
    sequence_length: int,
    cache_bytes: int,
    steps: int = 100,
) -> Fetches:
    """Count the block reads of some steps; workers are spread over hosts in order of rank.

    Args:
        hosts: machines, each with a cache of its own for each dataset.
        workers: ranks over all hosts, a multiple of `hosts`.
        global_batch: sequences per step.
        micro_batch: sequences per group.
        cache_bytes: of tokens that a host keeps of a dataset.
    """
    caches: list[list[OrderedDict[int, int]]] = [
        [OrderedDict() for _ in stream.names] for _ in range(hosts)
    ]
    fetched, peak, T = [0] * hosts, 0, sequence_length
    own = [stream.rows[name] for name in stream.names]
    for step in range(steps):
        first = step * global_batch * T
        groups = first + T * np.arange(global_batch).reshape(micro_batch, -1).T
        for number, group in enumerate(groups):
            host = number % workers // (workers // hosts)
            samples = stream.samples(group, T)
            for dataset, row in zip(samples.dataset.tolist(), samples.row.tolist(), strict=True):
                cache = caches[host][dataset]
                for block, size in _blocks(own[dataset], row):
                    fetched[host] += 0 if block in cache else size
                    cache[block] = size
                    cache.move_to_end(block)
                    if len(cache) > cache_bytes // HASH_BYTES:
                        cache.popitem(last=False)
        peak = max(peak, max(sum(map(len, host)) for host in caches))
    width = max(rows.shards.dtype.itemsize for rows in own)
    useful = steps * global_batch * T * width
    return Fetches(hosts, steps, useful, tuple(fetched), peak)


def _blocks(rows: Rows, row: int) -> Iterator[tuple[int, int]]:
    """(number, bytes) of the blocks that hold a row, as if all shards were one file."""
    width, stored = rows.shards.dtype.itemsize, rows.shards.tokens * rows.shards.dtype.itemsize
    for segment in rows.segments(row):
        first = (rows.shards.extent(segment.document)[0] + segment.offset) * width
        last = first + segment.length * width - 1
        for block in range(first // HASH_BYTES, last // HASH_BYTES + 1):
            yield block, min(HASH_BYTES, stored - block * HASH_BYTES)
