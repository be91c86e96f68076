"""The splits of a job's preference pairs: cut by a hash, tokenized, published, opened by ranks.

N pairs of a split, B pairs of a micro-batch, T+1 tokens of the longest of their 2B rows.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Tokenizer
from data.chat import ChatRow, ChatTemplate
from data.order import Ids
from data.sources.conversation import Preference
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.published import Published, publish_arrays
from orchestrator.stages.examples.ragged import joined, padded
from orchestrator.stages.examples.splitting import check_splits, is_held_out

VERSION = 2  # of what is in a published folder
SPLITS, ARRAYS = ("train", "validation"), ("tokens", "answers", "ends")
HELD_OUT = "validation.json"
OWN, STRANGERS = "own", "strangers"  # log-probabilities of the pairs' answers, and of others'


@dataclass(frozen=True)
class PublishedPreferences(Published):
    """Names the published pairs of a job."""

    template: str
    vocab_size: int
    tokens: float
    """Mean of the tokens of a row of the training split."""
    too_long: int
    """Pairs left out because no row has room for them."""
    reference: tuple[str, str] | None = None
    """Of a reference that is not live, where its weights are, and their sha256. None: none is asked
    for, or it is live."""

    def held_out(self, cache: Path) -> list[list[str]]:
        """Of each held-out pair what is asked last, and the answer that rules compare with."""
        found: list[list[str]] = json.loads((self.folder(cache) / HELD_OUT).read_text("utf-8"))
        return found


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
    rows: Ids
    """(B,): places in the split."""
    reference: NDArray[np.float32] | None = None
    """(B, 2): log-probabilities of both answers by the reference, where they are precomputed."""
    strangers: "Batch | None" = None
    """For a loss that needs them: the same questions with the answers of other pairs."""
    kl: float | None = None
    """For such a loss: how far the policy is from the reference, see `preferences.kto`."""

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
    most_tokens: int
    """Of a row."""
    with_strangers: bool = False
    """Whether batches come with their questions under the answers of other pairs."""
    reference: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    """(N, 2) by OWN and STRANGERS: log-probabilities of a reference that is not live."""

    def __len__(self) -> int:
        """N."""
        return len(self.ends) // 2

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The micro-batch of the pairs at `rows` (B,); see `Split` in stages/examples."""
        both = np.stack([2 * rows, 2 * rows + 1], 1).ravel()
        tokens, _ = padded(self.tokens, self.ends, both, self.filling)
        answers, _ = padded(self.answers, self.ends, both, 0)
        theirs = {name: own[rows] for name, own in self.reference.items()}
        strangers = None
        if self.with_strangers:
            made = self._strangers(rows)
            strangers = Batch(*made, counted, sample_ids, rows, theirs.get(STRANGERS))
        own = theirs.get(OWN)
        return Batch(tokens, answers[:, 1:] > 0, counted, sample_ids, rows, own, strangers)

    def _strangers(self, rows: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens and answers of rows that ask as these pairs do, answered as others are.

        Whose answers those are depends on the pair alone, so that neither the number of ranks nor
        the cut into micro-batches changes anything.
        """
        made: list[list[int]] = []
        marks: list[list[int]] = []
        for row in rows:
            for side in (0, 1):
                question = self.prompt(row)
                tokens, answers = self._row(2 * self._other(row) + side)
                answer = tokens[answers > 0].tolist()[: self.most_tokens - len(question)]
                made.append([*question, *answer])
                marks.append([0] * len(question) + [1] * len(answer))
        flat, ends = joined(made)
        places = np.arange(len(made))
        tokens_of, _ = padded(flat, ends, places, self.filling)
        answers_of, _ = padded(joined(marks)[0], ends, places, 0)
        return tokens_of, answers_of[:, 1:] > 0

    def _other(self, row: int) -> int:
        """The pair half a split away, whose question is most likely another."""
        return (row + len(self) // 2) % len(self)

    def _row(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Tokens and answers of a row."""
        own = slice(self.ends[number - 1] if number else 0, self.ends[number])
        return self.tokens[own], self.answers[own]

    def prompt(self, pair: int) -> list[int]:
        """The tokens of a pair before its last answer."""
        tokens, answers = self._row(2 * pair)
        found: list[int] = tokens[: int((answers > 0).argmax())].tolist()
        return found


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
    too_long, asked = 0, []
    for pair in dict.fromkeys(preferences):
        both = [chat.row(messages) for messages in (pair.chosen, pair.rejected)]
        if max(len(row.tokens) for row in both) > sequence_length:
            too_long += 1
            continue
        held_out = is_held_out(pair.key, validation_fraction, seed)
        rows["validation" if held_out else "train"] += both
        if held_out:
            asked.append([pair.chosen[-2][1], pair.reference or pair.chosen[-1][1]])
    count = {name: len(own) // 2 for name, own in rows.items()}
    check_splits(
        count,
        too_long,
        source=source,
        kind="pair",
        limit=f"stage.sequence_length={sequence_length}",
        fraction=validation_fraction,
    )
    arrays: dict[str, NDArray[Any]] = {}
    for name, own in rows.items():
        arrays[f"{name}-tokens"], arrays[f"{name}-ends"] = joined([row.tokens for row in own])
        arrays[f"{name}-answers"], _ = joined([last_answer(row) for row in own])
    about = {"version": VERSION, "template": chat.source}
    files = {TOKENIZER: tokenizer.json, HELD_OUT: json.dumps(asked)}
    fingerprint = publish_arrays(arrays, about, cache, files)
    mean = len(arrays["train-tokens"]) / len(rows["train"])
    return PublishedPreferences(
        fingerprint, count["train"], count["validation"], chat.source, tokenizer.vocab_size, mean,
        too_long,
    )  # fmt: skip


def last_answer(row: ChatRow) -> list[int]:
    """1 for each token of the last answer of a conversation."""
    answer = row.last_answer
    return [int(place in answer) for place in range(len(row.answers))]
