"""The splits of a job's preference pairs: cut by a hash, tokenized, published, opened by ranks.

N pairs of a split, B pairs of a micro-batch, T+1 tokens of the longest of their 2B rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Tokenizer
from data.chat import ChatRow, ChatTemplate
from data.messages import counted as told
from data.order import Ids
from data.sources.conversation import Preference
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.published import Published, publish_arrays
from orchestrator.stages.examples.ragged import joined, padded
from orchestrator.stages.examples.splitting import is_held_out

VERSION = 1  # of what is in a published folder
SPLITS, ARRAYS = ("train", "validation"), ("tokens", "answers", "ends")


@dataclass(frozen=True)
class PublishedPreferences(Published):
    """Names the published pairs of a job."""

    template: str
    vocab_size: int
    tokens: float
    """Mean of the tokens of a row of the training split."""
    too_long: int
    """Pairs left out because no row has room for them."""


@dataclass(frozen=True)
class Batch:
    """Pairs of one forward pass; row 2b has the chosen answer of pair b, row 2b+1 the other."""

    tokens: NDArray[np.int64]
    """(2B, T+1): inputs are [:, :-1], targets [:, 1:]."""
    answers: NDArray[np.bool_]
    """(2B, T): targets that are of the answer."""
    counted: NDArray[np.bool_]
    """(B,): which are pairs, and no filling."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""

    @property
    def weight(self) -> int:
        """Pairs."""
        return int(self.counted.sum())


@dataclass(frozen=True)
class Split:
    """The pairs of a split; the tokens of all rows stand end to end."""

    tokens: NDArray[np.int32]
    answers: NDArray[np.int32]
    """1 for each token of the last answer of its row, else 0."""
    ends: NDArray[np.int64]
    """(2N,): where each row ends."""
    filling: int
    """The token behind a row."""

    def __len__(self) -> int:
        """N."""
        return len(self.ends) // 2

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The micro-batch of the pairs at `rows` (B,); see `Split` in stages/examples."""
        both = np.stack([2 * rows, 2 * rows + 1], 1).ravel()
        tokens, _ = padded(self.tokens, self.ends, both, self.filling)
        answers, _ = padded(self.answers, self.ends, both, 0)
        return Batch(tokens, answers[:, 1:] > 0, counted, sample_ids)


def publish_preferences(
    preferences: Iterable[Preference],
    source: str,
    tokenizer: Tokenizer,
    template: tuple[str, str],
    *,
    sequence_length: int,
    validation_fraction: float,
    seed: int,
    cache: Path,
) -> PublishedPreferences:
    """Cut, render, tokenize and publish pairs, unless that has been done.

    Args:
        preferences: all of them.
        source: where they come from, for messages.
        tokenizer: of the models.
        template: the Jinja of the chat template, and what messages call it.
        sequence_length: most tokens of a row.
        validation_fraction: share of the keys that are held out.
        seed: of the cut.
        cache: root of the cache.

    Raises:
        ValueError: a split would be empty, or a pair does not fit the template.
    """
    chat = ChatTemplate(template[0], tokenizer, template[1])
    rows: dict[str, list[ChatRow]] = {name: [] for name in SPLITS}
    too_long = 0
    for pair in dict.fromkeys(preferences):
        both = [chat.row(messages) for messages in (pair.chosen, pair.rejected)]
        if max(len(row.tokens) for row in both) > sequence_length:
            too_long += 1
            continue
        held_out = is_held_out(pair.key, validation_fraction, seed)
        rows["validation" if held_out else "train"] += both
    count = {name: len(own) // 2 for name, own in rows.items()}
    if not all(count.values()):
        raise ValueError(
            f"{source} gives {told(count['train'], 'pair')} for training and "
            f"{count['validation']} for validation, {too_long} left out as longer than "
            f"stage.sequence_length={sequence_length} tokens, and both need some; give more "
            f"pairs, or another stage.validation_fraction than {validation_fraction}"
        )
    arrays: dict[str, NDArray[Any]] = {}
    for name, own in rows.items():
        arrays[f"{name}-tokens"], arrays[f"{name}-ends"] = joined([row.tokens for row in own])
        arrays[f"{name}-answers"], _ = joined([last_answer(row) for row in own])
    about = {"version": VERSION, "template": chat.source}
    fingerprint = publish_arrays(arrays, about, cache, {TOKENIZER: tokenizer.json})
    mean = len(arrays["train-tokens"]) / len(rows["train"])
    return PublishedPreferences(
        fingerprint, count["train"], count["validation"], chat.source, tokenizer.vocab_size, mean,
        too_long,
    )  # fmt: skip


def last_answer(row: ChatRow) -> list[int]:
    """1 for each token of the last answer of a conversation: the others are what it answers."""
    last = len(row.answers) - 1 - row.answers[::-1].index(True)
    start = last
    while start and row.answers[start - 1]:
        start -= 1
    return [int(start <= place <= last) for place in range(len(row.answers))]
