"""What a policy is asked: cut by a hash, tokenized, published, opened by ranks.

N prompts of a split, B of them at a time.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Published as PublishedText
from data import Tokenizer
from data.chat import ChatTemplate
from data.order import Ids
from data.sources.conversation import Conversation
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.published import Published, open_arrays, publish_arrays
from orchestrator.stages.examples.ragged import joined
from orchestrator.stages.examples.splitting import check_splits, is_held_out

VERSION = 2  # of what is in a published folder
SPLITS = ("train", "validation")
TEXTS = "texts.json"


@dataclass(frozen=True)
class PublishedPrompts(Published):
    """Names the published prompts of a job."""

    template: str
    vocab_size: int
    tokens: float
    """Mean of the tokens of a prompt of the training split."""
    too_long: int
    """Prompts left out because they have more than stage.prompt_tokens."""
    text: PublishedText | None = None
    """Learned beside answers. None: there is none."""


@dataclass(frozen=True)
class Questions:
    """Some prompts."""

    tokens: list[list[int]]
    texts: list[tuple[str, str]]
    """Of each what the user says last, and the answer of the data."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""
    counted: NDArray[np.bool_]
    """(B,): which of them count; the others fill up."""

    @property
    def weight(self) -> int:
        """Prompts that count."""
        return int(self.counted.sum())


@dataclass(frozen=True)
class Split:
    """The prompts of a split; the tokens of all stand end to end."""

    tokens: NDArray[np.int32]
    ends: NDArray[np.int64]
    """(N,): where each prompt ends."""
    texts: list[tuple[str, str]]

    def __len__(self) -> int:
        """N."""
        return len(self.ends)

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Questions:
        """The prompts at `rows` (B,); see `Split` in stages/examples."""
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        tokens = [
            self.tokens[start:end].tolist()
            for start, end in zip(starts, self.ends[rows], strict=True)
        ]
        return Questions(tokens, [self.texts[row] for row in rows], sample_ids, counted)

    def spread(self, most: int) -> "Split":
        """At most so many of them, from all over the split: neighbours may ask the same."""
        if most >= len(self):
            return self
        rows = np.arange(most) * len(self) // most
        some = self.batch(rows, rows, np.ones(most, np.bool_))
        return Split(*joined(some.tokens), some.texts)


def publish_prompts(
    conversations: Iterable[Conversation],
    source: str,
    tokenizer: Tokenizer,
    template: tuple[str, str],
    *,
    prompt_tokens: int,
    validation_fraction: float,
    seed: int,
    cache: Path,
) -> PublishedPrompts:
    """Cut, render, tokenize and publish prompts, unless that has been done.

    Args:
        conversations: all of them; the last answer of each is what rules compare with.
        source: where they come from, for messages.
        tokenizer: of the models.
        template: the Jinja of the chat template, and what messages call it.
        prompt_tokens: most tokens of a prompt.
        validation_fraction: share of the keys that are held out.
        seed: of the cut.
        cache: root of the cache.

    Raises:
        ValueError: a split would be empty, or a conversation does not fit the template.
    """
    chat = ChatTemplate(template[0], tokenizer, template[1])
    rows: dict[str, list[list[int]]] = {name: [] for name in SPLITS}
    texts: dict[str, list[tuple[str, str]]] = {name: [] for name in SPLITS}
    too_long = 0
    for one in dict.fromkeys(conversations):
        held_out = is_held_out(one.key, validation_fraction, seed)
        if held_out and (one.held_out or one.again):  # one thing is new about each
            continue
        last = max(n for n, (role, _) in enumerate(one.messages) if role == "assistant")
        prompt = chat.prompt(one.messages[:last])
        if len(prompt) > prompt_tokens:
            too_long += 1
            continue
        split = "validation" if held_out or one.held_out else "train"
        asked = [content for role, content in one.messages[:last] if role == "user"]
        rows[split].append(prompt)
        texts[split].append((asked[-1], one.messages[last][1]))
    count = {name: len(own) for name, own in rows.items()}
    check_splits(
        count,
        too_long,
        source=source,
        kind="prompt",
        limit=f"stage.prompt_tokens={prompt_tokens}",
        fraction=validation_fraction,
    )
    arrays: dict[str, NDArray[Any]] = {}
    for name, own in rows.items():
        arrays[f"{name}-tokens"], arrays[f"{name}-ends"] = joined(own)
    about = {"version": VERSION, "template": chat.source}
    files = {TOKENIZER: tokenizer.json, TEXTS: json.dumps(texts)}
    fingerprint = publish_arrays(arrays, about, cache, files)
    mean = len(arrays["train-tokens"]) / count["train"]
    return PublishedPrompts(
        fingerprint, count["train"], count["validation"], chat.source, tokenizer.vocab_size, mean,
        too_long,
    )  # fmt: skip


def open_split(published: PublishedPrompts, split: str, cache: Path) -> Split:
    """A split, `train` or `validation`; every rank calls it.

    Raises:
        NotOnThisHost: the folder is not there.
    """
    names = (f"{split}-{what}" for what in ("tokens", "ends"))
    tokens, ends = open_arrays(published.fingerprint, cache, *names)
    found = json.loads((published.folder(cache) / TEXTS).read_text(encoding="utf-8"))
    return Split(tokens, ends, [(asked, answer) for asked, answer in found[split]])
