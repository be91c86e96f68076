"""What a run remembers of its data: how far it is, what its stream was made of, what was trained.

A cursor counts tokens of the stream of rows: row cursor div R, token cursor mod R in it. A
sequence of length L, which divides R, is the next L tokens, so L may change where it divides the
cursor. The state is small whatever the length of the run, and says nothing of workers.
"""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from data.files import DataError
from data.order.columns import check, columns_of, entries, rows_of
from data.order.mixture import Mixture, Phase, check_phases
from data.order.multiset import Multiset
from data.order.permutation import ORDER_VERSION


@dataclass(frozen=True)
class DatasetFacts:
    """What the order of a dataset is a function of, beside the seed."""

    name: str
    fingerprint: str
    rows: int
    block: int
    lanes: int
    window: int


@dataclass(frozen=True)
class Batches:
    """Size of the batches from a step on; a step covers size x sequence length tokens."""

    step: int
    cursor: int
    """Where the stream stood before that step."""
    global_batch_size: int
    sequence_length: int

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.global_batch_size * self.sequence_length


@dataclass(frozen=True)
class Exclusion:
    """Tokens of a dataset that can't be read and are not trained on."""

    dataset: str
    start: int
    """First token, in the stream of the dataset's shards."""
    stop: int
    since: int
    """The cursor at which they were left out first."""


@dataclass(frozen=True)
class Skipped:
    """Sequences before the cursor that were not trained on, because they touch exclusions."""

    sequences: int = 0
    multiset: Multiset = field(default_factory=Multiset)


@dataclass(frozen=True)
class DataState:
    """All that is needed to go on, and to prove that nothing was lost or repeated.

    Every state that exists is a consistent one: DataError otherwise.
    """

    seed: int
    row_tokens: int
    packing: str
    datasets: Mapping[str, DatasetFacts]
    phases: tuple[Phase, ...]
    batches: tuple[Batches, ...]
    """Grows only; the last one goes on."""
    cursor: int = 0
    multiset: Multiset = field(default_factory=Multiset)
    """Of what was trained on."""
    skipped: Skipped = field(default_factory=Skipped)
    exclusions: tuple[Exclusion, ...] = ()
    order_version: int = ORDER_VERSION

    @staticmethod
    def begin(
        mixture: Mixture,
        fingerprints: Mapping[str, str],
        *,
        row_tokens: int,
        packing: str,
        global_batch_size: int,
        sequence_length: int,
    ) -> "DataState":
        """The state of a job before its first step.

        Raises:
            DataError: sequence_length does not divide row_tokens.
        """
        facts = {
            name: DatasetFacts(
                name, fingerprints[name], order.samples, order.block, order.lanes, order.window
            )
            for name, order in mixture.orders.items()
        }
        batches = (Batches(0, 0, global_batch_size, sequence_length),)
        return DataState(mixture.seed, row_tokens, packing, facts, mixture.phases, batches)

    def __post_init__(self) -> None:
        """Check what the parts must satisfy together."""
        if self.row_tokens < 1:
            raise DataError(f"data.row_tokens={self.row_tokens} must be at least 1")
        check_phases({name: facts.rows for name, facts in self.datasets.items()}, self.phases)
        if not self.batches or (self.batches[0].step, self.batches[0].cursor) != (0, 0):
            raise DataError("data state: batches must begin at step 0 and cursor 0")
        for left_out in self.exclusions:
            if left_out.dataset not in self.datasets or left_out.start >= left_out.stop:
                raise DataError(f"data state: {left_out} is not a part of one of its datasets")
        for batch in self.batches:
            if batch.global_batch_size < 1:
                raise DataError(f"global_batch_size={batch.global_batch_size} must be at least 1")
            if problem := length_problem(batch.sequence_length, self.row_tokens, batch.cursor):
                raise DataError(problem)
        for before, batch in pairwise(self.batches):
            steps = batch.step - before.step
            if steps < 1 or before.cursor + steps * before.tokens != batch.cursor:
                raise DataError(
                    f"data state: batches from step {batch.step} begin at cursor {batch.cursor}, "
                    f"which those from step {before.step} don't reach; the state is damaged"
                )
        last = self.batches[-1]
        if self.cursor < last.cursor or (self.cursor - last.cursor) % last.tokens:
            raise DataError(
                f"data state: cursor={self.cursor} is not at the end of a step of {last.tokens} "
                f"tokens from {last.cursor} on; the state is damaged"
            )

    @property
    def step(self) -> int:
        """Steps done."""
        return self.step_of_cursor(self.cursor)

    @property
    def covered(self) -> Multiset:
        """Of all sequences before the cursor: `expected_multiset(.., 0, cursor)` if all is well."""
        return self.multiset.combine(*self.skipped.multiset.sums)

    def cursor_of_step(self, step: int) -> int:
        """Where the stream stands before a step, which may be one to come."""
        batch = self.batches[bisect_right(self.batches, step, key=lambda b: b.step) - 1]
        return batch.cursor + (step - batch.step) * batch.tokens

    def step_of_cursor(self, cursor: int) -> int:
        """The step that trains on the token at a cursor, which may be one to come."""
        batch = self.batches[bisect_right(self.batches, cursor, key=lambda b: b.cursor) - 1]
        return batch.step + (cursor - batch.cursor) // batch.tokens

    def advanced(
        self, steps: int, trained: Multiset, skipped: Skipped | None = None
    ) -> "DataState":
        """The state after more steps; `trained` and `skipped` are of these steps, all ranks."""
        skipped = skipped or Skipped()
        return replace(
            self,
            cursor=self.cursor + steps * self.batches[-1].tokens,
            multiset=self.multiset.combine(*trained.sums),
            skipped=Skipped(
                self.skipped.sequences + skipped.sequences,
                self.skipped.multiset.combine(*skipped.multiset.sums),
            ),
        )

    def with_batch(self, global_batch_size: int, sequence_length: int) -> "DataState":
        """The state with other batches from here on.

        Raises:
            DataError: sequence_length can't start here; names the nearest ones that can.
        """
        # Batches that no step was made of leave no trace.
        kept = tuple(batch for batch in self.batches if batch.step < self.step)
        new = Batches(self.step, self.cursor, global_batch_size, sequence_length)
        if kept and replace(kept[-1], step=new.step, cursor=new.cursor) == new:
            return replace(self, batches=kept)
        return replace(self, batches=(*kept, new))

    def excluding(self, dataset: str, start: int, stop: int) -> "DataState":
        """The state with tokens start..stop of a dataset's stream left out from here on."""
        new = Exclusion(dataset, start, stop, since=self.cursor)
        return replace(self, exclusions=(*self.exclusions, new))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: tables as columns, and weights in the order of the datasets, to be small."""
        return {
            "order_version": self.order_version,
            "seed": self.seed,
            "row_tokens": self.row_tokens,
            "packing": self.packing,
            "cursor": self.cursor,
            "datasets": columns_of(DatasetFacts, list(self.datasets.values())),
            "phases": {
                "start": [phase.start for phase in self.phases],
                "weights": [[p.weights.get(n) for n in self.datasets] for p in self.phases],
            },
            "batches": columns_of(Batches, self.batches),
            "multiset": self.multiset.hex,
            "skipped": {"sequences": self.skipped.sequences, "multiset": self.skipped.multiset.hex},
            "exclusions": columns_of(Exclusion, self.exclusions),
        }

    @staticmethod
    def from_dict(state: object) -> "DataState":
        """The inverse of `to_dict`; DataError unless it is exactly what that gives."""
        known: dict[str, type] = {
            **dict.fromkeys(("order_version", "seed", "row_tokens", "cursor"), int),
            **dict.fromkeys(("packing", "multiset"), str),
            **dict.fromkeys(("datasets", "phases", "batches", "skipped", "exclusions"), dict),
        }
        own = entries(state, known, "")
        facts = rows_of(DatasetFacts, own["datasets"], "datasets")
        datasets = {one.name: one for one in facts}
        if len(datasets) < len(facts):
            raise DataError("data state: datasets.name has a name twice; the state is damaged")
        skipped = entries(own["skipped"], {"sequences": int, "multiset": str}, "skipped.")
        return DataState(
            seed=own["seed"],
            row_tokens=own["row_tokens"],
            packing=own["packing"],
            datasets=datasets,
            phases=_phases(own["phases"], list(datasets)),
            batches=tuple(rows_of(Batches, own["batches"], "batches")),
            cursor=own["cursor"],
            multiset=Multiset.from_hex(own["multiset"]),
            skipped=Skipped(skipped["sequences"], Multiset.from_hex(skipped["multiset"])),
            exclusions=tuple(rows_of(Exclusion, own["exclusions"], "exclusions")),
            order_version=own["order_version"],
        )


def length_problem(length: int, row_tokens: int, cursor: int) -> str | None:
    """Why sequences of `length` tokens can't start at a cursor, with the nearest that can."""
    common = math.gcd(row_tokens, cursor)
    if length >= 1 and common % length == 0:
        return None
    legal = [n for n in range(1, common + 1) if common % n == 0]
    near = [*[n for n in legal if n < length][-1:], *[n for n in legal if n > length][:1]]
    nearest = f"nearest: {', '.join(map(str, near))}"
    if length < 1 or row_tokens % length:
        return f"data.sequence_length={length} must divide data.row_tokens={row_tokens}; {nearest}"
    return (
        f"data.sequence_length={length} can't go on from token {cursor}, which is "
        f"{cursor % row_tokens} tokens into a row of {row_tokens}: it must divide both; {nearest}"
    )


def _phases(table: object, names: list[str]) -> tuple[Phase, ...]:
    columns = entries(table, {"start": list, "weights": list}, "phases.")
    phases = []
    for start, weights in zip(columns["start"], columns["weights"], strict=False):
        check(start, int, "phases.start")
        check(weights, list, "phases.weights")
        if len(weights) != len(names):
            raise DataError(f"data state: phases.weights={weights} of {len(names)} datasets")
        own = {n: weight for n, weight in zip(names, weights, strict=True) if weight is not None}
        phases.append(Phase(start, own))
    if len(columns["start"]) != len(columns["weights"]):
        raise DataError("data state: phases.start and phases.weights differ in length")
    return tuple(phases)
