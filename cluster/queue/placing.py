"""Bundles onto nodes: what fits where. The nodes are rows of arrays, the resources columns.

    N nodes; 3 resources: CPUs, GPUs, bytes of memory

Placing bundles of one kind is exact: the number that fits is the sum over the nodes. Bundles of
several kinds are placed kind by kind, the hardest first; that is bin packing in several dimensions,
where a placement that exists may be missed, as by every scheduler that has to answer at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.queue.drivers import Node
from cluster.queue.job import Bundle, Job

RESOURCES = ("cpus", "gpus", "memory_bytes")
GPU_WEIGHT = 2**20  # above any number of CPUs of a node

Amounts = NDArray[np.int64]
Kinds = tuple[tuple[Bundle, int], ...]


@dataclass(frozen=True)
class Spot:
    """Where the bundles of one job go."""

    index: Amounts
    """Rows of nodes, (n,); each once."""
    amounts: Amounts
    """What the job takes of each of them, (n, 3)."""
    by_kind: tuple[tuple[Bundle, tuple[int, ...]], ...]
    """The row of the node of each bundle, by kind."""


def need_of(bundle: Bundle) -> Amounts:
    """A bundle as a row, (3,)."""
    return np.array([bundle.cpus, bundle.gpus, bundle.memory_bytes], dtype=np.int64)


class Cluster:
    """The nodes that are there, and how to place bundles on what is free of them."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Nodes in the order of their names, so that the same question has the same answer."""
        self.nodes = sorted(nodes, key=lambda node: node.name)
        self.row = {node.name: row for row, node in enumerate(self.nodes)}
        rows = [[getattr(node, name) for name in RESOURCES] for node in self.nodes]
        self.total: Amounts = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self._allowed: dict[tuple[str, ...], NDArray[np.bool_]] = {}

    def allowed(self, bundle: Bundle) -> NDArray[np.bool_]:
        """The nodes that have all labels of a bundle, (N,)."""
        labels = bundle.labels
        if labels not in self._allowed:
            has = [node.labels.issuperset(labels) for node in self.nodes]
            self._allowed[labels] = np.array(has, dtype=np.bool_)
        return self._allowed[labels]

    def room(self, bundle: Bundle, free: Amounts) -> Amounts:
        """How many such bundles each node holds, (N,).

        Args:
            bundle: what each needs.
            free: of each node, (N, 3).
        """
        return self.counts(bundle, free, None)

    def counts(self, bundle: Bundle, free: Amounts, rows: Amounts | None) -> Amounts:
        """The same for some of the nodes.

        Args:
            bundle: what each needs.
            free: of these nodes, (n, 3).
            rows: which nodes these are, (n,); None for all.
        """
        need = need_of(bundle)
        asked = np.flatnonzero(need)
        most = np.iinfo(np.int64).max
        counts: Amounts = np.min(free[:, asked] // need[asked], axis=1, initial=most)
        np.maximum(counts, 0, out=counts)
        if bundle.labels:
            allowed = self.allowed(bundle)
            counts *= allowed if rows is None else allowed[rows]
        return counts

    def fitting(self, kinds: Kinds, free: Amounts) -> int:
        """How many bundles of a job fit, each kind for itself."""
        return sum(min(count, int(self.room(bundle, free).sum())) for bundle, count in kinds)

    def place(self, kinds: Kinds, free: Amounts) -> Spot | None:
        """A place for all bundles, on few nodes and where least is left over, if there is one.

        Args:
            kinds: the bundles of a job.
            free: of each node, (N, 3); not changed.
        """
        left = free
        by_kind = []
        taken: dict[int, Amounts] = {}
        for bundle, count in kinds:
            room = self.room(bundle, left)
            if int(room.sum()) < count:
                return None
            rows = _pick(room, count, left)
            by_kind.append((bundle, tuple(rows)))
            need = need_of(bundle)
            if len(kinds) > 1:
                left = left.copy()
                np.subtract.at(left, rows, need)
            for row in set(rows):
                taken[row] = taken.get(row, 0) + need * rows.count(row)
        index = np.fromiter(taken, dtype=np.int64)
        return Spot(index, np.array(list(taken.values())), tuple(by_kind))

    def spot(self, job: Job, placement: Sequence[str]) -> Spot:
        """Where a job is; what it has on nodes that are gone is left out."""
        taken: dict[int, Amounts] = {}
        parts = [(bundle, name, 1) for bundle, name in zip(job.needs, placement, strict=True)]
        if len(job.kinds) == 1:
            parts = [(job.needs[0], name, count) for name, count in Counter(placement).items()]
        for bundle, name, count in parts:
            row = self.row.get(name)
            if row is not None:
                taken[row] = taken.get(row, 0) + count * need_of(bundle)
        index = np.fromiter(taken, dtype=np.int64)
        return Spot(index, np.array(list(taken.values()), dtype=np.int64).reshape(-1, 3), ())

    def names(self, job: Job, spot: Spot) -> tuple[str, ...]:
        """The node of each bundle of a job that was placed."""
        rows = {bundle: iter(rows) for bundle, rows in spot.by_kind}
        return tuple(self.nodes[next(rows[bundle])].name for bundle in job.needs)


def _pick(room: Amounts, count: int, free: Amounts) -> list[int]:
    """Rows of the nodes for `count` bundles, as few as can be, and of these the fullest.

    Few free GPUs count as full before few free CPUs do: a job without GPUs then goes where they are
    in use, and leaves whole nodes of them to the jobs that need whole nodes.
    """
    full = free[:, 1] * GPU_WEIGHT + free[:, 0]
    rows: list[int] = []
    while count:
        whole = np.flatnonzero(room >= count)
        if len(whole):
            return rows + [int(whole[np.argmin(full[whole])])] * count
        if not rows:
            room = room.copy()
        widest = np.flatnonzero(room == room.max())
        row = int(widest[np.argmin(full[widest])])
        rows += [row] * int(room[row])
        count -= int(room[row])
        room[row] = 0
    return rows
