"""The splits of conversations: cut by a hash, tokenized, packed, published, opened by ranks.

N rows of a split, B rows of a micro-batch, T+1 tokens of the longest of them.
"""

import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data import Batch, Tokenizer, TokenizerConfig
from data.chat import ChatRow, ChatTemplate
from data.order import Ids
from data.records import Message
from data.sources.conversation import Conversation
from data.tokenizer import load_or_train
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.published import Arrays, Published, publish_arrays
from orchestrator.stages.examples.ragged import joined, padded
from orchestrator.stages.examples.splitting import check_splits, is_held_out
from orchestrator.stages.sft.base import BASE, BaseText
from orchestrator.stages.sft.packing import apart, epoch_of
from orchestrator.stages.sft.tasks import Share, TaskConfig, limited, shares_of, task_of, times

VERSION = 2  # of what is in a published folder
HELD_OUT, SHOTS = "validation.json", "shots.json"
MOST_SHOTS = 16
SPLITS = ("train", "validation")
ARRAYS = ("tokens", "answers", "documents", "ends")


@dataclass(frozen=True)
class PublishedConversations(Published):
    """Names the published conversations of a job; an example is a row of them."""

    kinds: tuple[str, ...]
    """What is held out, for scores of each."""
    template: str
    conversations: int
    """Of the training split."""
    vocab_size: int
    tokens: float
    """Mean of the tokens of a training row."""
    answered: float
    """Share of them that the assistant says."""
    too_long: int
    """Conversations left out because no row has room for them."""
    replayed: int
    """Training rows that are text which the weights have learned before."""
    base: str | None
    """That text in a few words. None: there are no weights to start from."""
    tasks: Mapping[str, Share]
    """What an epoch has of each task of a mixture; empty for one source."""

    def held_out(self, cache: Path) -> list[tuple[list[Message], str]]:
        """Messages and kind of each conversation of the validation split, as they were read."""
        return self._read(cache, HELD_OUT)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of what can be opened."""
        return (*SPLITS, *(() if self.base is None else (BASE,)))

    def shots(self, cache: Path) -> list[list[Message]]:
        """Some of the training split, to stand in a prompt as examples."""
        return [messages for messages, _ in self._read(cache, SHOTS)]

    def _read(self, cache: Path, name: str) -> list[tuple[list[Message], str]]:
        found = json.loads((self.folder(cache) / name).read_text(encoding="utf-8"))
        return [([(role, content) for role, content in own], kind) for own, kind in found]


@dataclass(frozen=True)
class Split:
    """The rows of a split; the tokens of all stand end to end."""

    tokens: NDArray[np.int32]
    answers: NDArray[np.int32]
    """1 for each token that the assistant says, else 0."""
    documents: NDArray[np.int32]
    """For each token, the number of its conversation in the row."""
    ends: NDArray[np.int64]
    """(N,): where each row ends."""
    filling: int
    """The token behind a row."""

    def __len__(self) -> int:
        """N."""
        return len(self.ends)

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The micro-batch of the rows at `rows` (B,); see `Split` in stages/examples.

        What follows a conversation in its row is no target of it: only answers are targets, and
        none begins a conversation.
        """
        tokens, real = padded(self.tokens, self.ends, rows, self.filling)
        answers, _ = padded(self.answers, self.ends, rows, 0)
        documents, _ = padded(self.documents, self.ends, rows, -1)
        several = bool((documents > 0).any())
        return Batch(
            tokens,
            (answers > 0)[:, 1:] & real[:, 1:] & counted[:, None],
            sample_ids,
            documents[:, :-1].astype(np.int32) if several else None,
        )


def publish_conversations(
    conversations: Iterable[Conversation],
    source: str,
    tokenizer: TokenizerConfig,
    template: tuple[str, str],
    *,
    sequence_length: int,
    packing: bool,
    validation_fraction: float,
    seed: int,
    cache: Path,
    known: Tokenizer | None = None,
    base: BaseText | None = None,
    replay_fraction: float = 0.0,
    tasks: Mapping[str, TaskConfig] | None = None,
) -> PublishedConversations:
    """Cut, render, tokenize, pack and publish conversations, unless that has been done.

    Args:
        conversations: all of them.
        source: where they come from, for messages.
        tokenizer: of the model; a bpe is trained on the training split.
        template: the Jinja of the chat template, and what messages call it.
        sequence_length: most tokens of a row.
        packing: whether a row holds several.
        validation_fraction: share of the keys that are held out.
        seed: of the cut.
        cache: root of the cache.
        known: the tokenizer of the weights to start from, in place of the settings.
        base: what those weights have learned before. None: there are none.
        replay_fraction: share of the training rows that are such text.
        tasks: of a mixture, which the kinds of the conversations name. None: one source.

    Raises:
        ValueError: a split would be empty, a conversation does not fit the template, there is
            too little text to replay, or a weight is too large.
    """
    tasks = tasks or {}
    splits = _cut(conversations, tasks, validation_fraction, seed)
    texts = [content for own in splits["train"] for _, content in own.messages]
    made = known or load_or_train(tokenizer, lambda: iter(texts))
    chat = ChatTemplate(template[0], made, template[1])
    rows = {name: [chat.row(own.messages) for own in split] for name, split in splits.items()}
    fits = {name: [len(row.tokens) <= sequence_length for row in own] for name, own in rows.items()}
    long = Counter(
        task_of(own)
        for name, kept in fits.items()
        for own, fit in zip(splits[name], kept, strict=True)
        if not fit
    )
    for name, kept in fits.items():
        splits[name] = [own for own, fit in zip(splits[name], kept, strict=True) if fit]
        rows[name] = [own for own, fit in zip(rows[name], kept, strict=True) if fit]
    names = {name: [task_of(own) for own in split] for name, split in splits.items()}
    for task in tasks or (None,):
        check_splits(
            {name: own.count(task) if task else len(own) for name, own in names.items()},
            long[task] if task else long.total(),
            source=f"stage.tasks.{task}" if task else source,
            kind="conversation",
            limit=f"stage.sequence_length={sequence_length}",
            fraction=validation_fraction,
        )
    often = times(names["train"], {name: task.weight for name, task in tasks.items()}, seed)
    arrays: Arrays = {}
    for name, own in rows.items():
        lengths = [len(row.tokens) for row in own]
        room = sequence_length if packing else None
        # Each held-out one has a score of its own, and so a row.
        layout = epoch_of(lengths, often, room) if name == "train" else apart(own)
        arrays = {**arrays, **_laid_out(name, own, layout)}
    replayed = 0
    if base is not None:
        known_before = [_whole(own) for own in base.held_out(sequence_length, seed)]
        arrays = {**arrays, **_laid_out(BASE, known_before, apart(known_before))}
        if replay_fraction:
            replayed = round(len(arrays["train-ends"]) * replay_fraction / (1 - replay_fraction))
            again = [_whole(own) for own in base.rows("train", replayed, sequence_length, seed)]
            arrays = _behind(arrays, _laid_out("train", again, apart(again)))
    kinds = sorted({_kind(own) for own in splits["validation"]})
    drawn = random.Random(seed).sample(splits["train"], min(MOST_SHOTS, len(splits["train"])))
    files = {
        TOKENIZER: made.json,
        **{
            name: json.dumps([[own.messages, _kind(own)] for own in kept])
            for name, kept in ((HELD_OUT, splits["validation"]), (SHOTS, drawn))
        },
    }
    shares = shares_of(tasks, names["train"], often, names["validation"])
    about = {"version": VERSION, "kinds": kinds, "template": chat.source}
    if tasks:
        about["tasks"] = {name: share.shown for name, share in shares.items()}
    fingerprint = publish_arrays(arrays, about, cache, files)
    train = len(arrays["train-ends"])
    return PublishedConversations(
        fingerprint,
        train,
        len(splits["validation"]),
        tuple(kinds),
        chat.source,
        len(splits["train"]),
        made.vocab_size,
        len(arrays["train-tokens"]) / train,
        sum(sum(row.answers) for row in rows["train"]) / sum(len(r.tokens) for r in rows["train"]),
        long.total(),
        replayed,
        None if base is None else base.described,
        shares,
    )


def _cut(
    conversations: Iterable[Conversation],
    tasks: Mapping[str, TaskConfig],
    fraction: float,
    seed: int,
) -> dict[str, list[Conversation]]:
    """Each conversation in its split, but for those that are in none."""
    splits: dict[str, list[Conversation]] = {name: [] for name in SPLITS}
    for one in dict.fromkeys(conversations):
        held_out = is_held_out(one.key, fraction, seed)
        if held_out and (one.held_out or one.again):  # one thing is new about each
            continue
        splits["validation" if held_out or one.held_out else "train"].append(one)
    # Another task may have what is held out under another key.
    asked = {own.messages for own in splits["validation"]}
    train = [own for own in splits["train"] if own.messages not in asked]
    return {**splits, "train": limited(train, tasks, seed)}


def _kind(own: Conversation) -> str:
    return own.held_out or own.kind


def _whole(tokens: list[int]) -> ChatRow:
    """Text of which every token is learned."""
    return ChatRow(tokens, [True] * len(tokens))


def _behind(arrays: Arrays, more: Arrays) -> Arrays:
    """Arrays of the training split with rows behind its own."""
    offset = len(arrays["train-tokens"])
    more = {name: own + offset * (name == "train-ends") for name, own in more.items()}
    return {**arrays, **{name: np.concatenate([arrays[name], own]) for name, own in more.items()}}


def _laid_out(split: str, rows: Sequence[ChatRow], layout: Sequence[Sequence[int]]) -> Arrays:
    """The arrays of a split whose rows hold these conversations."""
    tokens, ends = joined([[t for n in own for t in rows[n].tokens] for own in layout])
    answers, _ = joined([[int(a) for n in own for a in rows[n].answers] for own in layout])
    documents, _ = joined(
        [[k for k, n in enumerate(own) for _ in rows[n].tokens] for own in layout]
    )
    found: Arrays = {
        "tokens": tokens,
        "answers": answers,
        "documents": documents,
        "ends": ends,
    }
    return {f"{split}-{name}": array for name, array in found.items()}
