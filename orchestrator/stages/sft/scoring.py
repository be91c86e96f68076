"""Held-out answers: how likely and how many exact, with intervals, before training and after."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.heart import Heart
from data.chat import ChatTemplate
from data.messages import cut
from data.records import Message
from models.decoding import Sampling
from orchestrator.stages.examples.feeding import evaluation
from orchestrator.stages.language.sampling import continued
from orchestrator.stages.result import Table, interval
from orchestrator.stages.sft.conversations import Split
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import evaluating
from orchestrator.training.patience import EVALUATION

CONFIDENCE = 0.95
RESAMPLES = 2000
SHOWN = 6  # answers in the table of them
LONGEST_ANSWER = 40  # tokens of them
LONGEST_SHOWN = 60  # characters of a question or an answer in the table
LONGEST_BEFORE = 30  # of one before training, which may be anything
Asked = list[tuple[list[Message], str]]
"""Conversations that end with an answer, and their kinds."""
Scores = Mapping[str, Mapping[str, float]]
"""For each kind of what is held out, and all: number, loss and exact, each of the two with the ends
of its interval, `_low` and `_high`. Plain numbers, for a checkpoint."""


@dataclass(frozen=True)
class Measured:
    """Of each held-out conversation, (N,) each."""

    nats: NDArray[np.float64]
    """Of its answers."""
    tokens: NDArray[np.float64]
    exact: NDArray[np.float64]
    """1 where each token of its answers is the likeliest behind those before it, else 0."""


def measure(engine: Engine, split: Split, micro: int, heart: Heart) -> Measured:
    """The loss of each held-out conversation, and whether it is exact. Every rank calls it.

    If each token is the likeliest one, then, and only then, taking the likeliest each time writes
    the whole answer. So nothing need be written, and a model in shards can be measured, too.
    """
    found = np.zeros((len(split), 3))
    with evaluating(engine):
        shares = evaluation(split, micro, distributed.rank(), distributed.world_size())
        for batch in shares:
            heart.beat(EVALUATION)
            rows = torch.from_numpy(batch.tokens).to(engine.device)  # (B, T+1)
            mask = torch.from_numpy(batch.loss_mask).to(engine.device)  # (B, T)
            targets = rows[:, 1:]  # (B, T)
            grades = engine.forward(rows[:, :-1], targets=targets, loss_mask=mask, grades=True)
            nats, right = grades  # (B, T) each
            tokens = mask.sum(1)
            own = [nats.sum(1), tokens, (tokens > 0) & (right.sum(1) == tokens)]
            # Rows that fill up a batch come again, and count nothing.
            np.add.at(found, batch.sample_ids, torch.stack(own, 1).double().cpu().numpy())
    return Measured(*distributed.sum_array(found, engine.device).T)


def scores(measured: Measured, kinds: Sequence[str], seed: int) -> Scores:
    """Of each kind, and of all where there are several.

    Args:
        measured: of N conversations.
        kinds: (N,) of each.
        seed: of the resampling.
    """
    own = np.array(kinds)
    names = sorted(set(kinds))
    parts = {name: own == name for name in names}
    if len(names) > 1:
        parts["all"] = np.ones(len(own), dtype=np.bool_)
    return {name: _score(measured, chosen, seed) for name, chosen in parts.items()}


def _score(measured: Measured, chosen: NDArray[np.bool_], seed: int) -> dict[str, float]:
    """Intervals: of the loss by the percentile bootstrap over conversations (Efron 1979), of the
    exact ones by Wilson 1927, which holds at none and all, too.
    """
    nats, tokens, exact = (own[chosen] for own in (measured.nats, measured.tokens, measured.exact))
    number, right = len(nats), int(exact.sum())
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(0, number, number) for _ in range(RESAMPLES))
    resampled = [nats[again].sum() / tokens[again].sum() for again in drawn]
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    exact_low, exact_high = interval(right, number)
    return {
        "number": number,
        "loss": float(nats.sum() / tokens.sum()),
        "loss_low": float(low),
        "loss_high": float(high),
        "exact": right / number,
        "exact_low": exact_low,
        "exact_high": exact_high,
    }


def metrics_of(found: Scores) -> dict[str, float]:
    """As the record has them."""
    total = found["all"] if len(found) > 1 else next(iter(found.values()))
    metrics = {"validation/loss": total["loss"], "validation/exact": total["exact"]}
    if len(found) > 1:
        for kind, own in found.items():
            name = kind.replace(" ", "_")
            if kind != "all":
                metrics |= {f"validation/{name}/{what}": own[what] for what in ("loss", "exact")}
    return metrics


def table(before: Scores, after: Scores) -> Table:
    """What got better, by how much, and how sure that is."""
    rows = []
    for kind, own in after.items():
        for what, form in (
            ("loss", "{:.3f} ({:.3f} to {:.3f})"),
            ("exact", "{:.1%} ({:.1%} to {:.1%})"),
        ):
            told = (
                form.format(*(one[what + end] for end in ("", "_low", "_high")))
                for one in (before[kind], own)
            )
            rows.append((f"{kind}: {what}", f"{own['number']:,.0f}", *told))
    columns = ("held out", "number", "before", "after")
    return Table("answers_before_and_after", columns, tuple(rows), bold=len(rows) - 1)


def answers(
    engine: Engine, chat: ChatTemplate, held_out: Sequence[Sequence[Message]], most_tokens: int
) -> list[str]:
    """What the model answers last in each conversation, the likeliest each time. Every rank calls
    it.

    Args:
        engine: of the model.
        chat: its template.
        held_out: conversations that end with an answer.
        most_tokens: of a conversation.
    """
    prompts = [chat.prompt(messages[:-1]) for messages in held_out]
    end = chat.tokenizer.end_of_text
    greedy: dict[str, Any] = {"sampling": Sampling(temperature=0), "seeds": [0] * len(prompts)}
    ends = [min(len(prompt) + LONGEST_ANSWER, most_tokens) for prompt in prompts]
    rows = continued(engine, prompts, ends, stop=end, **greedy)
    return [
        chat.tokenizer.decode([token for token in row[len(prompt) :] if token != end])
        for prompt, row in zip(prompts, rows, strict=True)
    ]


def examples(
    held_out: Sequence[tuple[Sequence[Message], str]], before: Sequence[str], after: Sequence[str]
) -> Table:
    """A few questions with the answers before and after, and what they should be."""
    rows = tuple(
        (
            cut(messages[-2][1], LONGEST_SHOWN),
            cut(old, LONGEST_BEFORE),
            cut(new, LONGEST_SHOWN),
            "the same" if new == messages[-1][1] else messages[-1][1],
        )
        for (messages, _), old, new in zip(held_out, before, after, strict=True)
    )
    return Table("examples", ("question", "before", "after", "should be"), rows)


def few(held_out: Asked, each: int | None = None) -> Asked:
    """Some of the held-out conversations, of each kind in turn, drawn by a seed of their own: what
    comes in turns, such as questions of four sorts, would be missed at equal distances.

    Args:
        held_out: all of them, and their kinds.
        each: how many of a kind at most. None: as many as the table of them shows.
    """
    kinds = sorted({kind for _, kind in held_out})
    each = -(-SHOWN // len(kinds)) if each is None else each
    found: Asked = []
    for kind in kinds:
        own = [one for one in held_out if one[1] == kind]
        places = random.Random(0).sample(range(len(own)), min(each, len(own)))
        found += [own[place] for place in sorted(places)]
    return found
