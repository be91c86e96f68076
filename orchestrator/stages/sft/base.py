"""The text that the weights have learned before: some of it again, and how well it is still known.

T tokens of a row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data import Prepared, ShardSet
from orchestrator.config import JobConfig
from orchestrator.stages.language.preparing import describe, make_data, text_of_weights
from orchestrator.stages.result import Table
from orchestrator.stages.stage import Say

HELD_OUT_ROWS = 128
BASE, LOSS, CHANGE = "base", "validation/base_loss", "validation/base_change"


@dataclass(frozen=True)
class BaseText:
    """The job's section `data`, in the tokens of the weights."""

    prepared: Prepared
    described: str

    def rows(self, split: str, count: int, length: int, seed: int) -> list[list[int]]:
        """Rows of `length` tokens from all over a split, none of a token of another.

        Args:
            split: `train` or `validation`.
            count: rows.
            length: of a row.
            seed: of the choice.

        Raises:
            ValueError: there is less text.
        """
        sets: list[ShardSet] = [getattr(own, split) for own in self.prepared.datasets.values()]
        places = [(own, n * length) for own in sets for n in range(own.tokens // length)]
        if len(places) < count:
            raise ValueError(
                f"stage.replay_fraction asks for {count:,} rows of {length} tokens, and "
                f"{self.described} has {len(places):,}; try a smaller stage.replay_fraction, or "
                "more text with data=..."
            )
        chosen = np.random.default_rng(seed).choice(len(places), count, replace=False)
        found = (places[n] for n in sorted(chosen))
        return [own.read(start, start + length).tolist() for own, start in found]

    def held_out(self, length: int, seed: int) -> list[list[int]]:
        """Rows of the validation split, by which forgetting is told; as many as there are, or
        HELD_OUT_ROWS."""
        sets = [own.validation for own in self.prepared.datasets.values()]
        count = min(HELD_OUT_ROWS, sum(own.tokens // length for own in sets))
        return self.rows("validation", count, length, seed)


def base_text(config: JobConfig, say: Say) -> BaseText | None:
    """The base text of a job, made ready unless that has been done. None: it has no weights to
    start from, and so nothing to forget.
    """
    if config.role("model").model.weights is None:
        return None
    return BaseText(make_data(text_of_weights(config), say), describe(config.data))


def metrics_of(losses: Sequence[float]) -> dict[str, float]:
    """The last of the losses on the base text, and what part of the first it is above that."""
    return {LOSS: losses[-1], CHANGE: losses[-1] / losses[0] - 1}


def table(losses: Sequence[float], source: str) -> Table:
    """What training has done to what was known before.

    Args:
        losses: on the base text, in nats per token, before training, at each evaluation, and after.
        source: the base text in a few words.
    """
    three = (losses[0], max(losses), losses[-1])
    row = (source, *(f"{loss:.3f}" for loss in three), f"{metrics_of(losses)[CHANGE]:+.1%}")
    columns = ("text known before", "loss before", "highest", "loss after", "change")
    return Table("forgetting", columns, (row,))
