"""What one rank has trained on since a checkpoint, to be added to the state of the next one."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from data.feed.loader import Batch
from data.feed.stream import Damage, Stream
from data.order.multiset import Multiset, dataset_keys
from data.order.state import DataState, Skipped

FIELDS = 5  # numbers that a rank's `sums` are


class Ledger:
    """Counts sequences once they were trained on, never when they were only read ahead."""

    def __init__(self, stream: Stream, state: DataState) -> None:
        """`state` is that of the job's start, or of the checkpoint it goes on from."""
        self.state = state
        self._keys = dataset_keys(stream.fingerprints)
        self._steps, self._trained, self._skipped = 0, Multiset(), Skipped()

    def add(self, batches: list[Batch]) -> None:
        """Count this rank's micro-batches of an optimizer step that was done."""
        self._steps += 1
        for batch in batches:
            readable = batch.readable
            assert readable is not None  # only evaluation lacks it
            if readable.any():
                self._trained = self._with(self._trained, batch, readable)
            if not readable.all():
                multiset = self._with(self._skipped.multiset, batch, ~readable)
                count = self._skipped.sequences + int((~readable).sum())
                self._skipped = Skipped(count, multiset)

    def _with(self, sum_so_far: Multiset, batch: Batch, chosen: NDArray[np.bool_]) -> Multiset:
        samples, length = batch.samples, batch.loss_mask.shape[1]
        assert samples is not None
        start = samples.part[chosen] * length
        keys = self._keys[samples.dataset[chosen]]
        return sum_so_far.add(
            keys, samples.epoch[chosen], samples.row[chosen], start, start + length
        )

    @property
    def sums(self) -> list[int]:
        """This rank's part as FIELDS signed 64-bit numbers, for a gather over ranks."""
        numbers = (*self._trained.sums, *self._skipped.multiset.sums)
        signed = [number - (number >> 63 << 64) for number in numbers]
        return [*signed, self._skipped.sequences]

    def commit(self, gathered: list[int], damage: Iterable[Damage]) -> DataState:
        """The state after the steps that were added; the ledger goes on from there.

        Args:
            gathered: the `sums` of all ranks, one after the other.
            damage: what any rank has skipped since the run began.
        """
        trained, skipped = Multiset(), Skipped()
        for first in range(0, len(gathered), FIELDS):
            a, b, c, d, sequences = gathered[first : first + FIELDS]
            trained = trained.combine(a, b)
            skipped = Skipped(skipped.sequences + sequences, skipped.multiset.combine(c, d))
        state = self.state.advanced(self._steps, trained, skipped)
        known = {(e.dataset, e.start, e.stop) for e in state.exclusions}
        for own in sorted({(d.dataset, d.start, d.stop) for d in damage} - known):
            state = state.excluding(*own)
        self.state = state
        self._steps, self._trained, self._skipped = 0, Multiset(), Skipped()
        return self.state


def check_prefix(stream: Stream, state: DataState, most_rows: int) -> str | None:
    """What is wrong with a state's account of what was trained on; None if it is as it must be.

    All sequences before the cursor are drawn again, without reading them: about a microsecond a
    row. None also for a longer prefix than `most_rows` rows.
    """
    if state.cursor > most_rows * state.row_tokens:
        return None
    keys = dataset_keys(stream.fingerprints)
    expected = stream.expected(keys, state.cursor)
    if expected == state.covered:
        return None
    return (
        f"the account of the {state.cursor:,} tokens trained on so far does not hold: their sum is "
        f"{state.covered.hex}, that of the stream {expected.hex}; tokens were lost or repeated"
    )
