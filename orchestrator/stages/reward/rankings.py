"""The splits of a job's ranked answers: cut by a hash, tokenized, published, opened by ranks.

N examples of a split with R answers in all, B examples of a micro-batch with K answers at most, T
tokens of the longest.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Tokenizer, TokenizerConfig
from data.chat import ChatTemplate
from data.order import Ids
from data.records import Message
from data.sources.conversation import Ranking
from data.tokenizer import load_or_train
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.published import Published, publish_arrays
from orchestrator.stages.examples.ragged import joined, padded
from orchestrator.stages.examples.splitting import check_splits, is_held_out

VERSION = 1  # of what is in a published folder
ARRAYS = ("tokens", "ends", "starts", "last", "scores", "targets", "margins")
Row = tuple[list[int], int]
"""Tokens of a question with an answer, and how many of them stand before that."""


@dataclass(frozen=True)
class PublishedRankings(Published):
    """Names the published examples of a job."""

    template: str
    vocab_size: int
    tokens: float
    """Mean of the tokens of a training example, over all of its answers."""
    answers: int
    """Of the training split."""
    too_long: int
    """Examples left out because no row has room for an answer of theirs."""


@dataclass(frozen=True)
class Batch:
    """Examples of one forward pass, each answer a row."""

    tokens: NDArray[np.int64]
    """(R, T), filled up behind the token that ends an answer."""
    lengths: NDArray[np.int64]
    """(R,): tokens of each row."""
    rows: Ids
    """(R,): their places among the rows of the split."""
    places: NDArray[np.int64]
    """(B, K): where the answers of each example are in the batch, the better before the worse; -1
    where there is none."""
    targets: NDArray[np.float32]
    """(B, K): standardised scores; nan where there is none."""
    margins: NDArray[np.float32]
    """(B,)."""
    counted: NDArray[np.bool_]
    """(B,): which are examples, and no filling."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""

    @property
    def weight(self) -> int:
        """Examples."""
        return int(self.counted.sum())


@dataclass(frozen=True)
class Split:
    """The examples of a split; the tokens of all answers stand end to end."""

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    """(R,): where each row ends, with the token that ends its answer."""
    starts: NDArray[np.int64]
    """(R,): the tokens of each row before its answer."""
    last: NDArray[np.int64]
    """(N,): the answers of all examples up to each."""
    scores: NDArray[np.float32]
    """(R,) of each answer; nan where it has none."""
    targets: NDArray[np.float32]
    """(R,): scores in standard deviations from the mean of the training split."""
    margins: NDArray[np.float32]
    """(N,)."""
    filling: int
    """The token behind a row."""

    def __len__(self) -> int:
        """N."""
        return len(self.last)

    def answers_of(self, example: int) -> range:
        """The rows of an example."""
        return range(int(self.last[example - 1]) if example else 0, int(self.last[example]))

    def row(self, answer: int) -> NDArray[np.int32]:
        """The tokens of an answer with what it answers."""
        return self.tokens[self.ends[answer - 1] if answer else 0 : self.ends[answer]]

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The micro-batch of the examples at `rows` (B,); see `Split` in stages/examples."""
        own = [self.answers_of(int(example)) for example in rows]
        places = np.full((len(own), max(map(len, own))), -1, dtype=np.int64)  # (B, K)
        targets = np.full(places.shape, np.nan, dtype=np.float32)
        begun = 0
        for example, answers in enumerate(own):
            places[example, : len(answers)] = np.arange(begun, begun + len(answers))
            targets[example, : len(answers)] = self.targets[answers]
            begun += len(answers)
        flat = np.concatenate([np.array(answers) for answers in own])
        tokens, real = padded(self.tokens, self.ends, flat, self.filling)
        margins = self.margins[rows]
        return Batch(tokens, real.sum(1), flat, places, targets, margins, counted, sample_ids)


def publish_rankings(
    rankings: Iterable[Ranking],
    source: str,
    tokenizer: TokenizerConfig,
    template: tuple[str, str],
    *,
    sequence_length: int,
    validation_fraction: float,
    seed: int,
    cache: Path,
    known: Tokenizer | None = None,
) -> PublishedRankings:
    """Cut, render, tokenize and publish examples, unless that has been done.

    Args:
        rankings: all of them.
        source: where they come from, for messages.
        tokenizer: of the model; a bpe is trained on the training split.
        template: the Jinja of the chat template, and what messages call it.
        sequence_length: most tokens of an answer with what it answers.
        validation_fraction: share of the keys that are held out.
        seed: of the cut.
        cache: root of the cache.
        known: the tokenizer of the weights to start from, in place of the settings.

    Raises:
        ValueError: a split would be empty, or an example does not fit the template.
    """
    splits: dict[str, list[Ranking]] = {"train": [], "validation": []}
    for one in dict.fromkeys(rankings):
        held_out = is_held_out(one.key, validation_fraction, seed)
        splits["validation" if held_out else "train"].append(one)
    texts = [content for one in splits["train"] for own in one.answers for _, content in own]
    made = known or load_or_train(tokenizer, lambda: iter(texts))
    chat = ChatTemplate(template[0], made, template[1])
    arrays: dict[str, NDArray[Any]] = {}
    too_long = 0
    for name, split in splits.items():
        kept: list[tuple[Ranking, list[Row]]] = []
        for one in split:
            rows = [_row(chat, own) for own in one.answers]
            if max(len(tokens) for tokens, _ in rows) <= sequence_length:
                kept.append((one, rows))
        too_long += len(split) - len(kept)
        arrays |= {f"{name}-{key}": array for key, array in _arrays(kept).items()}
    count = {name: len(arrays[f"{name}-last"]) for name in splits}
    check_splits(
        count,
        too_long,
        source=source,
        kind="example",
        limit=f"stage.sequence_length={sequence_length}",
        fraction=validation_fraction,
    )
    scores = arrays["train-scores"].astype(np.float64)
    for name in splits:
        own = (arrays[f"{name}-scores"] - scores.mean()) / (scores.std() or 1.0)
        arrays[f"{name}-targets"] = own.astype(np.float32)
    about = {"version": VERSION, "template": chat.source}
    return PublishedRankings(
        publish_arrays(arrays, about, cache, {TOKENIZER: made.json}),
        count["train"],
        count["validation"],
        chat.source,
        made.vocab_size,
        len(arrays["train-tokens"]) / count["train"],
        len(arrays["train-ends"]),
        too_long,
    )


def _row(chat: ChatTemplate, messages: Sequence[Message]) -> Row:
    """A conversation up to the token that ends its last answer, by which it is judged."""
    row = chat.row(messages)
    answer = row.last_answer
    return row.tokens[: answer.stop], answer.start


def _arrays(kept: list[tuple[Ranking, list[Row]]]) -> dict[str, NDArray[Any]]:
    """The arrays of a split."""
    tokens, ends = joined([row for _, rows in kept for row, _ in rows])
    scores = [own for one, rows in kept for own in one.scores or [np.nan] * len(rows)]
    return {
        "tokens": tokens,
        "ends": ends,
        "starts": np.array([start for _, rows in kept for _, start in rows], dtype=np.int64),
        "last": np.cumsum([len(rows) for _, rows in kept], dtype=np.int64),
        "scores": np.array(scores, dtype=np.float32),
        "margins": np.array([one.margin for one, _ in kept], dtype=np.float32),
    }
