"""Which dataset each position of a run draws from: exact shares, computed, never stored.

A run is a list of phases, each with whole-number weights. Position p lies in mixture block
t = p div Q of a phase.
1. A balanced-tree split says how many of a phase's first k positions each dataset gets: whole
   numbers that add up to k and never fall as k grows, so small weights are served too.
2. The difference between the two ends of a block is each dataset's quota in it. Item j of a
   dataset goes, by a keyed hash, to a position p of the block with p mod C = j mod C where there
   is room: a host that takes whole lanes then reads few blocks of each dataset.
3. Item j is row order(j) of epoch j div rows, by the dataset's own `Order`.
The past never depends on later phases, so the weights of a run change by appending a phase.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data.files import DataError
from data.messages import did_you_mean
from data.order.permutation import Ids, Order, groups, hashes, sub_key

MIXTURE_BLOCK = 4096
"""Q, positions whose shares are exact."""
MIXTURE_LANES = 64
"""C, as the lanes of the datasets' orders."""


@dataclass(frozen=True)
class Phase:
    """The weights of a stretch of a run."""

    start: int
    """First row position, a multiple of MIXTURE_BLOCK; it lasts until the next phase starts."""
    weights: Mapping[str, int]
    """Share of each dataset, at least 1; a dataset that is left out is not drawn."""


@dataclass(frozen=True)
class Draw:
    """What stands at some positions."""

    dataset: NDArray[np.int64]
    """(B,): index into `Mixture.names`."""
    epoch: NDArray[np.int64]
    """(B,): how often the dataset was seen whole before."""
    row: NDArray[np.int64]
    """(B,): row of the dataset."""


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """`total` split by weights: whole numbers (D,), adding up to it, none falling as it grows.

    The left half of the weights gets its part rounded up, the right half the rest, and so on
    down: each level adds less than 1 to the deviation from the exact share.
    """
    if len(weights) == 1:
        return [total]
    middle = len(weights) // 2
    left, right = weights[:middle], weights[middle:]
    first = -(-total * sum(left) // sum(weights))
    return shares(first, left) + shares(total - first, right)


def check_phases(rows: Mapping[str, int], phases: Sequence[Phase]) -> None:
    """Refuse a schedule that can't be followed.

    Args:
        rows: rows of each dataset.
        phases: the whole schedule; the first phase holds the weights of `data.datasets`.

    Raises:
        DataError: names the setting and what to type instead.
    """
    for name, count in rows.items():
        if count < 1:
            raise DataError(
                f"data.datasets.{name} has {count} rows: not even one row of data.row_tokens; "
                "bring more text, set a smaller data.row_tokens, or remove the dataset"
            )
    if not phases or phases[0].start != 0:
        found = f"start={phases[0].start}" if phases else "no phase"
        raise DataError(f"data.phases: the first phase must start at 0, found {found}")
    for before, phase in pairwise(phases):
        if phase.start <= before.start:
            raise DataError(
                f"data.phases: start={phase.start} must be after the phase before it, which "
                f"starts at {before.start}; give the phases in the order of their starts"
            )
    for phase in phases:
        if phase.start % MIXTURE_BLOCK:
            lower = phase.start // MIXTURE_BLOCK * MIXTURE_BLOCK
            nearest = f"{lower}, {lower + MIXTURE_BLOCK}" if lower else f"{MIXTURE_BLOCK}"
            raise DataError(
                f"data.phases: start={phase.start} must be a multiple of {MIXTURE_BLOCK} rows; "
                f"nearest: {nearest}"
            )
        _check_weights(rows, phase)
    named = {name for phase in phases for name in phase.weights}
    for name in rows:
        if name not in named:
            raise DataError(
                f"data.datasets.{name} is in no phase: set data.datasets.{name}.weight to draw "
                "from it at once, name it in one of data.phases, or remove it"
            )


def _check_weights(rows: Mapping[str, int], phase: Phase) -> None:
    where = f"data.phases: the phase at start={phase.start}"
    if not phase.weights:
        raise DataError(
            "data.datasets: no dataset has a weight at the start; set data.datasets.NAME.weight"
            if phase.start == 0
            else f"{where} has no weights; name at least one dataset"
        )
    for name, weight in phase.weights.items():
        if name not in rows:
            raise DataError(
                f"{where} names {name}, but data.datasets has {', '.join(sorted(rows))}"
                f"{did_you_mean(name, rows)}"
            )
        if type(weight) is not int or weight < 1:
            setting, remedy = (
                (f"data.datasets.{name}.weight={weight}", f"set data.datasets.{name}.weight=null")
                if phase.start == 0
                else (f"{where}: weight {name}={weight}", f"leave {name} out of the phase")
            )
            raise DataError(
                f"{setting} must be a whole number of at least 1; to not draw from it, {remedy}"
            )


@dataclass(frozen=True)
class _Span:
    """A phase and what was drawn before it."""

    start: int
    members: tuple[int, ...]
    """Indices into `Mixture.names`, in the order of the names, whatever order they came in."""
    weights: tuple[int, ...]
    before: tuple[int, ...]
    """(D,) over all names: items drawn before `start`."""

    def drawn(self, length: int) -> list[int]:
        """Items (D,) over all names drawn before position start + length, at a block's end."""
        counts = list(self.before)
        for member, count in zip(self.members, shares(length, self.weights), strict=True):
            counts[member] += count
        return counts


class Mixture:
    """Maps global row positions to datasets, epochs and rows; a pure function of its arguments.

    With one dataset in a phase its items stand in their own order.

    Attributes:
        names: of the datasets, in the order of `orders`; `Draw.dataset` points here.
    """

    def __init__(self, orders: Mapping[str, Order], phases: Sequence[Phase], seed: int) -> None:
        """Raises DataError as `check_phases` does.

        Args:
            orders: of each dataset; their keys must differ, else two would be shuffled alike.
        """
        check_phases({name: order.samples for name, order in orders.items()}, phases)
        assert len({order.key for order in orders.values()}) == len(orders), "orders of equal keys"
        self.orders, self.phases, self.seed = dict(orders), tuple(phases), seed
        self.names = tuple(orders)
        self.key = hashlib.blake2b(f"mixture\0{seed}".encode(), digest_size=32).digest()
        index = {name: number for number, name in enumerate(self.names)}
        self._spans: list[_Span] = []
        before = tuple(0 for _ in self.names)
        for number, phase in enumerate(self.phases):
            if number:
                before = tuple(self._spans[-1].drawn(phase.start - self.phases[number - 1].start))
            ordered = sorted(phase.weights)
            members, weights = zip(*((index[n], phase.weights[n]) for n in ordered), strict=True)
            self._spans.append(_Span(phase.start, members, weights, before))
        self._block = lru_cache(maxsize=8)(self._make_block)

    def __call__(self, positions: Ids) -> Draw:
        """What stands at global positions (B,) >= 0; raises ValueError for a negative one."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise ValueError(f"mixture: position {positions.min()} is negative")
        dataset, item = np.empty_like(positions), np.empty_like(positions)
        for block, chosen in groups(positions // MIXTURE_BLOCK):
            span = self._span(block * MIXTURE_BLOCK)
            if len(span.members) == 1:
                dataset[chosen] = span.members[0]
                item[chosen] = positions[chosen] - (span.start - span.before[span.members[0]])
            else:
                datasets, items = self._block(block)
                inside = positions[chosen] - block * MIXTURE_BLOCK
                dataset[chosen], item[chosen] = datasets[inside], items[inside]
        epoch, row = np.empty_like(positions), np.empty_like(positions)
        for number, chosen in groups(dataset):
            order = self.orders[self.names[number]]
            epoch[chosen] = item[chosen] // order.samples
            row[chosen] = order(item[chosen])
        return Draw(dataset, epoch, row)

    def counts(self, position: int) -> dict[str, int]:
        """Rows drawn from each dataset before a position."""
        span = self._span(position)
        block, inside = divmod(position, MIXTURE_BLOCK)
        if len(span.members) == 1:
            drawn = span.drawn(position - span.start)
        else:
            drawn = span.drawn(block * MIXTURE_BLOCK - span.start)
            if inside:
                datasets, _ = self._block(block)
                part = np.bincount(datasets[:inside], minlength=len(self.names))
                drawn = [a + b for a, b in zip(drawn, part.tolist(), strict=True)]
        return dict(zip(self.names, drawn, strict=True))

    def repetitions(self, stop: int) -> dict[str, float]:
        """How many epochs of each dataset a run of `stop` rows sees."""
        return {name: n / self.orders[name].samples for name, n in self.counts(stop).items()}

    def position_of(self, name: str, epoch: int, row: int) -> int | None:
        """Where an epoch of a dataset shows a row; None when the schedule never gets there.

        Raises:
            DataError: no such dataset.
            ValueError: no such row, or a negative epoch.
        """
        if name not in self.orders:
            hint = did_you_mean(name, self.names)
            raise DataError(f"no dataset {name}; there are {', '.join(self.names)}{hint}")
        dataset, order = self.names.index(name), self.orders[name]
        item = epoch * order.samples + int(order.inverse(np.array([row]), epoch)[0])
        for span, following in zip(self._spans, [*self._spans[1:], None], strict=True):
            if dataset in span.members and (following is None or item < following.before[dataset]):
                return self._find(span, dataset, item)
        return None

    def _find(self, span: _Span, dataset: int, item: int) -> int:
        """The position of an item that the span draws."""
        wanted, place = item - span.before[dataset], span.members.index(dataset)
        if len(span.members) == 1:
            return span.start + wanted
        # An upper bound of the blocks: the share deviates by less than 1 for each level.
        needed = (wanted + len(span.members)) * sum(span.weights) // span.weights[place]
        blocks = range(needed // MIXTURE_BLOCK + 2)

        def drawn(block: int) -> int:
            return shares(block * MIXTURE_BLOCK, span.weights)[place]

        block = span.start // MIXTURE_BLOCK + bisect_right(blocks, wanted, key=drawn) - 1
        datasets, items = self._block(block)
        (found,) = np.flatnonzero((datasets == dataset) & (items == item)).tolist()
        return block * MIXTURE_BLOCK + int(found)

    def _span(self, position: int) -> _Span:
        starts = [span.start for span in self._spans]
        return self._spans[bisect_right(starts, position) - 1]

    def _make_block(self, block: int) -> tuple[Ids, Ids]:
        """Datasets (Q,) and their item numbers (Q,) at the positions of a block."""
        start = block * MIXTURE_BLOCK
        span = self._span(start)
        first = span.drawn(start - span.start)
        last = span.drawn(start - span.start + MIXTURE_BLOCK)
        ranges = [np.arange(first[member], last[member]) for member in span.members]
        dataset = np.repeat(span.members, [len(items) for items in ranges])
        item = np.concatenate(ranges)
        places = _places(dataset, item % MIXTURE_LANES, sub_key(self.key, "block", block))
        return dataset[places], item[places]


def _places(dataset: Ids, lane: Ids, key: bytes) -> Ids:
    """Which item stands at each position of a block (Q,).

    A lane keeps as many as it has places, chosen by hash; the others fill what is free in other
    lanes. Another hash says where in a lane each dataset stands; there its items stand in their
    order, so that a run that ends inside a block has seen its epochs nearly one after the other.

    Args:
        dataset: of each item (Q,), items of one dataset in their order.
        lane: that each item prefers (Q,).
        key: of the block.
    """
    capacity = MIXTURE_BLOCK // MIXTURE_LANES
    sizes = np.bincount(lane, minlength=MIXTURE_LANES)
    by_lane = np.lexsort((hashes(sub_key(key, "keep"), MIXTURE_BLOCK), lane))
    rank = np.arange(MIXTURE_BLOCK) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    lane = lane.copy()
    lane[by_lane[rank >= capacity]] = np.repeat(
        np.arange(MIXTURE_LANES), np.maximum(capacity - sizes, 0)
    )
    filled = np.lexsort((hashes(sub_key(key, "order"), MIXTURE_BLOCK), lane))
    slots = np.lexsort((dataset[filled], lane[filled]))
    filled[slots] = np.lexsort((dataset, lane))
    # Position p is place p div C of lane p mod C.
    return filled.reshape(MIXTURE_LANES, capacity).T.ravel()
