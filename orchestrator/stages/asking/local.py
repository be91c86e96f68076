"""A model on this machine that answers, or tells what answers are worth, a batch at a time.

Every rank holds it whole.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import torch

from data import Tokenizer
from data.chat import ChatTemplate
from models.decoding import Sampling, TextModel, generate
from models.decoding.generating import pad_left, pad_right, prefill
from orchestrator.stages.asking.requests import WORDS, Reply, Request
from orchestrator.training.engine import Engine
from orchestrator.training.loop import evaluating
from orchestrator.training.rankings import last_values


class LocalModel:
    """Answers by the likeliest token, or by drawing; a choice by how likely its words are."""

    def __init__(
        self, engine: Engine, chat: ChatTemplate, who: str, *, batch_size: int, least_mass: float
    ) -> None:
        """Ask the model of `engine`, which holds it whole, by `chat`; see AskedConfig."""
        self.who = f"{who} {chat.source} {least_mass}"
        self.again: dict[str, int] = {}
        self._model = cast(TextModel, engine.model)
        self._chat, self._batch, self._least_mass = chat, batch_size, least_mass
        self._device = engine.device

    def ask(self, requests: Sequence[Request]) -> Generator[tuple[int, Reply]]:
        """See `Asked`: requests of a kind and of similar length together."""
        prompts = [self._chat.prompt(request.messages) for request in requests]

        def kind(place: int) -> tuple[bool, int, float]:
            request = requests[place]
            return request.choice, request.most_tokens, request.temperature

        for places in alike(prompts, self._batch, kind):
            rows = [prompts[place] for place in places]
            if requests[places[0]].choice:
                replies = self._choose(rows)
            else:
                replies = self._write(rows, requests, places)
            yield from zip(places, replies, strict=True)

    @torch.inference_mode()
    def _choose(self, rows: Sequence[list[int]]) -> list[Reply]:
        tokens, starts = pad_left(rows, self._device)
        logits = prefill(self._model, tokens, self._model.new_cache(tokens.shape[1], starts))
        chances = logits.float().softmax(-1)  # (B, V)
        first, second = word_tokens(self._chat.tokenizer)
        found = []
        for row, one, two, best in zip(
            rows,
            chances[:, first].tolist(),
            chances[:, second].tolist(),
            chances.argmax(-1).tolist(),
            strict=True,
        ):
            mass = one + two
            chance = one / mass if mass >= self._least_mass and mass > 0 else None
            found.append(Reply(self._chat.tokenizer.decode([best]), len(row), 1, chance))
        return found

    def _write(
        self, rows: Sequence[list[int]], requests: Sequence[Request], places: Sequence[int]
    ) -> list[Reply]:
        asked = requests[places[0]]
        tokenizer = self._chat.tokenizer
        end = tokenizer.end_of_text
        written = generate(
            self._model,
            rows,
            asked.most_tokens,
            Sampling(temperature=asked.temperature),
            seeds=[requests[place].seed for place in places],
            stop_tokens=(end,),
        ).rows()
        return [
            Reply(tokenizer.decode([t for t in new if t != end]).strip(), len(row), len(new))
            for row, new in zip(rows, written, strict=True)
        ]


class RewardModel:
    """Tells what the last message is worth: the value at the token that ends it."""

    def __init__(self, engine: Engine, chat: ChatTemplate, who: str, *, batch_size: int) -> None:
        """Ask the model of `engine`, which has a value head, by `chat`."""
        self.who = f"{who} {chat.source}"
        self.again: dict[str, int] = {}
        self._engine, self._chat, self._batch = engine, chat, batch_size

    def ask(self, requests: Sequence[Request]) -> Generator[tuple[int, Reply]]:
        """See `Asked`: messages of similar length together."""
        rows = [scored_tokens(self._chat, request) for request in requests]
        for places in alike(rows, self._batch):
            own = [rows[place] for place in places]
            tokens, mask = pad_right(own, self._engine.device)
            with evaluating(self._engine):
                values = self._engine.forward(tokens).float()
            rewards = last_values(values, mask.sum(1)).tolist()
            for place, row, reward in zip(places, own, rewards, strict=True):
                yield place, Reply("", len(row), 0, reward=reward)


def alike(
    rows: Sequence[Sequence[int]], most: int, kind: Callable[[int], Any] = lambda _: 0
) -> Iterator[list[int]]:
    """Places of rows, at most so many together: of one kind, and of similar length."""
    order = sorted(range(len(rows)), key=lambda place: (kind(place), len(rows[place])))
    for _, own in groupby(order, key=kind):
        places = list(own)
        yield from (places[start : start + most] for start in range(0, len(places), most))


def scored_tokens(chat: ChatTemplate, request: Request) -> list[int]:
    """The tokens of messages up to the one that ends the last answer."""
    row = chat.row(request.messages)
    return row.tokens[: row.last_answer.stop]


def fits_scored(chat: ChatTemplate, request: Request, positions: int) -> bool:
    """Whether messages that are to be scored fit into so many positions. Raises as `fits`."""
    return len(scored_tokens(chat, request)) <= positions


def word_tokens(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens that WORDS begin with. Raises ValueError if they are one and the same."""
    first, second = (tokenizer.encode(word)[0] for word in WORDS)
    if first == second:
        raise ValueError(
            f"the tokenizer of the judge begins {WORDS[0]} and {WORDS[1]} with the same token, so "
            "they can't be told apart; take another model"
        )
    return first, second


def fits(chat: ChatTemplate, request: Request, positions: int) -> bool:
    """Whether a request with its answer fits into so many positions.

    Raises:
        DataError: a message holds what only the template may write, such as an end of text.
    """
    chat.rendered((*request.messages, ("assistant", "")))
    return len(chat.prompt(request.messages)) + request.most_tokens <= positions
