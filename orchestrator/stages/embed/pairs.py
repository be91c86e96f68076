"""Micro-batches of centres with their neighbours and negatives, a function of the sample alone.

N words of a split, B centres, C = 2 x window places around each, K negatives for each pair.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.order import Ids
from orchestrator.stages.embed.words import uniforms

POWER = 0.75  # of counts, by which negatives are drawn (Mikolov et al. 2013, section 2.2)


@dataclass(frozen=True)
class Batch:
    """Centres of one forward pass."""

    centres: NDArray[np.int64]
    """(B,)."""
    neighbours: NDArray[np.int64]
    """(B, C)."""
    mask: NDArray[np.bool_]
    """(B, C): which of them there are."""
    negatives: NDArray[np.int64]
    """(B, C, K), or (B, 1, K) where the neighbours are one example together."""
    true: NDArray[np.bool_]
    """(B, C) or (B, 1): which pairs there are."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""

    @property
    def weight(self) -> int:
        """Pairs."""
        return int(self.true.sum())


class Pairs:
    """The centres of a split, as examples of stages/examples."""

    def __init__(
        self,
        numbers: NDArray[np.int32],
        documents: NDArray[np.int32],
        counts: NDArray[np.int64],
        *,
        window: int,
        negatives: int,
        together: bool,
        key: str,
    ) -> None:
        """Prepare to draw.

        Args:
            numbers: (N,) words as they stand in the text.
            documents: (N,) the document of each.
            counts: (V,) of the whole text.
            window: most neighbours on either side.
            negatives: K.
            together: whether the neighbours of a centre are one example (CBOW).
            key: that all draws follow from.
        """
        self.numbers, self.documents = numbers, documents
        self.window, self.negatives, self.together, self.key = window, negatives, together, key
        chances = counts.astype(np.float64) ** POWER
        self.ends = np.cumsum(chances / chances.sum())

    def __len__(self) -> int:
        """N."""
        return len(self.numbers)

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The centres at rows (B,); see `Split` in stages/examples."""
        offsets = np.array([o for o in range(-self.window, self.window + 1) if o])  # (C,)
        places = rows[:, None] + offsets
        inside = (places >= 0) & (places < len(self))
        places = places.clip(0, len(self) - 1)
        # As in word2vec the window is drawn, so that near words count more often than far ones.
        reach = 1 + np.floor(self.window * uniforms(f"window {self.key}", sample_ids))  # (B,)
        same = self.documents[places] == self.documents[rows][:, None]
        mask = inside & same & (np.abs(offsets) <= reach[:, None]) & counted[:, None]
        centres = self.numbers[rows].astype(np.int64)
        neighbours = self.numbers[places].astype(np.int64)
        told = centres[:, None] if self.together else neighbours  # (B, 1) or (B, C)
        true = mask.any(1, keepdims=True) if self.together else mask
        return Batch(
            centres, neighbours, mask, self.draw(told.shape[1], sample_ids), true, sample_ids
        )

    def draw(self, pairs: int, sample_ids: Ids) -> NDArray[np.int64]:
        """Negatives (B, pairs, K), each with a probability as counts^0.75.

        One that is the very word of the pair stays among them: it is as likely as any, and the
        objective leaves it out.
        """
        each = pairs * self.negatives
        places = sample_ids[:, None] * each + np.arange(each)
        drawn = np.searchsorted(self.ends, uniforms(f"negatives {self.key}", places), side="right")
        return drawn.clip(max=len(self.ends) - 1).reshape(len(sample_ids), pairs, self.negatives)
