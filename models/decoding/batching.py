"""Continuous batching: many rows through few slots, none computed for once it has ended.

A row that ends leaves the batch, and a waiting one takes its place as soon as there is room for
some; what is kept of their tokens is memory that was made once.

n rows in the batch, T0 tokens of a prompt, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence, Set
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from models.cache import Cache, SlotKVCache
from models.decoding.generating import check, generate, pad_left, pad_right, prefill
from models.decoding.sampling import Sampling, draw_with_logprobs
from models.decoding.stepping import Stepper, TextModel, evaluating, stepping
from models.gpt import GPT

SLOTS = 128
"""Rows at a time, where nobody says how many."""
ROOM = 8
"""Rows enter when such a part of the slots is free: reading one prompt costs as much as a step."""
READ_TOKENS = 1024
"""Of prompts in one pass: what it computes stays near the processor."""


@dataclass
class Row:
    """What is asked for, and what has been written."""

    prompt: Sequence[int]
    seed: int
    most_tokens: int
    tokens: list[int] = field(default_factory=list)
    """New ones, the one that ended it too."""
    logprobs: list[float] = field(default_factory=list)
    """Of each, in nats, of the logits divided by the temperature."""


class Batch(Protocol):
    """Rows that are written at the same time. Logits are those behind each row, (n, V)."""

    @property
    def room(self) -> int:
        """How many rows may enter now."""

    def enter(self, rows: Sequence[Row]) -> Tensor:
        """Read the prompts of rows (k,): logits (k, V). They stand behind those that are there."""

    def leave(self, slots: Sequence[int]) -> list[int]:
        """Drop the rows in these slots; for each slot from then on, which row it had before."""

    def step(self, tokens: Tensor) -> Tensor:
        """The logits behind one more token, int64 (n,), of each row."""


@torch.inference_mode()
def write_rows(
    model: TextModel,
    rows: Sequence[Row],
    sampling: Sampling,
    *,
    stop_tokens: Collection[int] = (),
    slots: int = SLOTS,
) -> None:
    """Write behind each row's prompt, until a stop token or `most_tokens`.

    Each row is continued as it would be alone, whatever the others are and however many slots
    there are, but for the rounding of sums, which changes a choice between equals. `generate` does
    the same for rows that all stay to the end, and more.

    Args:
        model: as in `generate`.
        rows: prompts, seeds and room; what is written is put there.
        sampling: how a token is chosen; it has no repetition penalty.
        stop_tokens: tokens that end a row.
        slots: rows at a time.

    Raises:
        ValueError: as `generate`.
    """
    if not rows:
        return
    most = max(row.most_tokens for row in rows)
    tokens, _ = pad_left([row.prompt for row in rows], model.head_weight.device)
    check(model, tokens, most, stop_tokens)
    if model.head_weight.is_cuda:
        _write_recorded(model, rows, sampling, stop_tokens, slots)
        return
    slots = min(slots, len(rows))
    capacity = max(len(row.prompt) + row.most_tokens for row in rows) - 1
    batch: Batch
    if isinstance(model, GPT) and model.config.steps and model.config.mask == "causal":
        batch = Slots(model, slots, capacity, sum(row.most_tokens for row in rows) // slots)
    else:
        batch = Shrinking(model, slots, most)
    with evaluating(model):
        _write(batch, rows, sampling, set(stop_tokens), slots)


def _write(
    batch: Batch, rows: Sequence[Row], sampling: Sampling, stops: Set[int], slots: int
) -> None:
    """`write_rows` where rows come and go."""
    waiting, inside = list(rows)[::-1], list[Row]()
    logits = torch.empty(0)
    while waiting or inside:
        if waiting and (not inside or batch.room >= max(slots // ROOM, 1)):
            new = [waiting.pop() for _ in range(min(batch.room, len(waiting)))]
            new.sort(key=_by_length)
            read = batch.enter(new)
            logits = torch.cat([logits, read]) if inside else read
            inside += new
        places = [len(row.tokens) for row in inside]
        drawn, likely = draw_with_logprobs(logits, sampling, [row.seed for row in inside], places)
        ended = []
        for slot, (row, token, logprob) in enumerate(
            zip(inside, drawn.tolist(), likely.tolist(), strict=True)
        ):
            row.tokens.append(token)
            row.logprobs.append(logprob)
            if token in stops or len(row.tokens) == row.most_tokens:
                ended.append(slot)
        if ended:
            stay = batch.leave(ended)
            inside, drawn = [inside[slot] for slot in stay], drawn[stay]
        if inside:
            logits = batch.step(drawn)


class Slots:
    """Rows of a Transformer, in slots of one cache."""

    def __init__(self, model: GPT, slots: int, capacity: int, steps: int) -> None:
        """Make room for so many rows of so many tokens; about so many steps will be taken."""
        self.model, self.slots = model, slots
        self.cache = SlotKVCache(slots, capacity)
        self.stepper = Stepper(model, self.cache, slots, steps)

    @property
    def room(self) -> int:
        """Slots without a row."""
        return self.slots - len(self.cache.lengths)

    def enter(self, rows: Sequence[Row]) -> Tensor:
        """Read each prompt once; see `Batch`."""
        found = [self._read(part) for part in _passes(rows)]
        return torch.cat(found)

    def _read(self, prompts: Sequence[tuple[Sequence[int], int]]) -> Tensor:
        """Read prompts, filled up behind, for so many rows each: logits (k, V)."""
        device = self.model.head_weight.device
        tokens, mask = pad_right([prompt for prompt, _ in prompts], device)
        lengths = mask.sum(1)
        read = self.model.new_cache(tokens.shape[1])
        hidden = self.model.hidden(tokens, read)  # no token sees what stands behind it
        ends = hidden[torch.arange(len(prompts), device=device), lengths - 1]
        copies = torch.tensor([number for _, number in prompts], device=device)
        index = torch.arange(len(prompts), device=device).repeat_interleave(copies)
        self.cache.enter(read, index, lengths[index])
        return self.model.logits(ends)[index]

    def leave(self, slots: Sequence[int]) -> list[int]:
        """Move the last rows into the slots; see `Batch`."""
        return self.cache.leave(slots)

    def step(self, tokens: Tensor) -> Tensor:
        """See `Batch`."""
        return self.stepper.step(tokens)


class Shrinking:
    """Rows of any model: waiting ones enter when none is left."""

    def __init__(self, model: TextModel, slots: int, most_tokens: int) -> None:
        """At most so many rows, and so many new tokens of each."""
        self.model, self.slots, self.most_tokens = model, slots, most_tokens
        self.cache: Cache | None = None

    @property
    def room(self) -> int:
        """All or none."""
        return self.slots if self.cache is None else 0

    def enter(self, rows: Sequence[Row]) -> Tensor:
        """See `Batch`."""
        model, prompts = self.model, _copies(rows)
        device = model.head_weight.device
        tokens, starts = pad_left([prompt for prompt, _ in prompts], device)
        self.cache = model.new_cache(tokens.shape[1] + self.most_tokens - 1, starts)
        logits = prefill(model, tokens, self.cache)
        copies = torch.tensor([number for _, number in prompts])
        index = torch.arange(len(prompts)).repeat_interleave(copies).to(device)
        self.cache.select(index)
        self.continued = stepping(model, self.cache, len(rows), self.most_tokens - 1, selects=True)
        self.rows = len(rows)
        return logits[index]

    def leave(self, slots: Sequence[int]) -> list[int]:
        """See `Batch`."""
        assert self.cache is not None
        stay = sorted(set(range(self.rows)) - set(slots))
        self.rows = len(stay)
        if stay:
            self.cache.select(torch.tensor(stay, device=self.model.head_weight.device))
        else:
            self.cache = None
        return stay

    def step(self, tokens: Tensor) -> Tensor:
        """See `Batch`."""
        return self.continued(tokens)


def _by_length(row: Row) -> tuple[int, Sequence[int]]:
    """Rows of like lengths are read together, those of one prompt once."""
    return len(row.prompt), list(row.prompt)


def _copies(rows: Sequence[Row]) -> list[tuple[Sequence[int], int]]:
    """Prompts, and how many rows in a row begin with each."""
    return [(prompt, len(list(own))) for prompt, own in groupby(list(row.prompt) for row in rows)]


def _passes(rows: Sequence[Row]) -> Iterator[list[tuple[Sequence[int], int]]]:
    """`_copies`, in parts of at most `READ_TOKENS`, filled up."""
    part: list[tuple[Sequence[int], int]] = []
    for prompt, number in _copies(rows):
        if part and (len(part) + 1) * len(prompt) > READ_TOKENS:
            yield part
            part = []
        part.append((prompt, number))
    yield part


def _write_recorded(
    model: TextModel,
    rows: Sequence[Row],
    sampling: Sampling,
    stop_tokens: Collection[int],
    slots: int,
) -> None:
    """`write_rows` where a step is recorded for a number of rows: they stay to the end of all."""
    for start in range(0, len(rows), slots):
        own = rows[start : start + slots]
        prompts = _copies(own)
        found = generate(
            model,
            [prompt for prompt, _ in prompts],
            max(row.most_tokens for row in own),
            sampling,
            seeds=[row.seed for row in own],
            stop_tokens=stop_tokens,
            logprobs=True,
            tempered=not sampling.greedy,
            copies=[number for _, number in prompts],
        )
        assert found.logprobs is not None
        for row, tokens, likely, kept in zip(
            own, found.tokens, found.logprobs, found.mask, strict=True
        ):
            row.tokens += tokens[kept].tolist()[: row.most_tokens]
            row.logprobs += likely[kept].tolist()[: row.most_tokens]
