"""Rollouts: answers that a policy in training writes, and what its models say of each token.

B answers of this rank, T+1 tokens of the longest prompt with its answer. Rows begin with their
prompt and are filled up behind, so that each token stands where it would stand alone.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.decoding import Row, Sampling, TextModel, draw, write_rows
from orchestrator.training import distributed
from orchestrator.training.engine import Engine
from orchestrator.training.loop import evaluating
from orchestrator.training.roles import Role


@dataclass(frozen=True)
class Rows:
    """Tensors with a row for each of some answers."""

    def __len__(self) -> int:
        """B."""
        return len(getattr(self, fields(self)[0].name))

    @property
    def shallow(self) -> dict[str, Any]:
        """The fields by their names."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def at(self, rows: slice | Tensor) -> Self:
        """The same of some of the answers, by their places or a stretch of them."""
        some = {
            name: value.at(rows) if isinstance(value, Rows) else value[rows]
            for name, value in self.shallow.items()
        }
        return type(self)(**some)

    def cut(self, length: int) -> Self:
        """The same without what stands behind so many targets, (B, length) each."""
        some = {
            name: value.cut(length) if isinstance(value, Rows) else value[:, :length]
            for name, value in self.shallow.items()
            if isinstance(value, Rows) or value.ndim > 1
        }
        return replace(self, **some)


@dataclass(frozen=True)
class Rollout(Rows):
    """Answers to prompts."""

    tokens: Tensor
    """int64 (B, T+1): inputs are [:, :-1], targets [:, 1:]."""
    mask: Tensor
    """bool (B, T): targets that are of the answer, the token that ends it too."""
    sampled: Tensor
    """fp32 (B, T): log-probabilities as the sampler saw them, 0 outside the mask."""
    ended: Tensor
    """bool (B,): whether the answer came to its end within its room."""

    @property
    def longest(self) -> int:
        """Targets up to the last one of any answer."""
        return int(self.mask.any(0).nonzero().max()) + 1

    def cut(self, length: int) -> Self:
        """See `Rows`; tokens are one more, (B, length + 1)."""
        return replace(super().cut(length), tokens=self.tokens[:, : length + 1])

    def answers(self, end: int) -> list[list[int]]:
        """The tokens of each answer, without the one that ends it."""
        rows = zip(self.tokens[:, 1:], self.mask, strict=True)
        return [[token for token in row[own].tolist() if token != end] for row, own in rows]


def sample(
    policy: Role,
    prompts: Sequence[Sequence[int]],
    copies: Sequence[int],
    seeds: Sequence[int],
    *,
    most_tokens: int,
    temperature: float,
    end: int,
    micro: int,
) -> Rollout:
    """Let the policy answer prompts. Every rank calls it, with as many answers.

    An answer follows from the weights, its prompt and its seed alone.

    Args:
        policy: writes with the weights that it has now, without dropout.
        prompts: rows of tokens.
        copies: how many answers to each prompt; B in all.
        seeds: (B,), of the draws of each answer.
        most_tokens: of an answer, with its end token.
        temperature: above 0.
        end: the token that ends an answer.
        micro: answers in one forward pass of a model in shards.
    """
    how = Sampling(temperature=temperature)
    rows = [list(row) for row, number in zip(prompts, copies, strict=True) for _ in range(number)]
    if policy.config.engine.sharding_stage == 3:
        written = _written_in_shards(policy.engine, rows, seeds, how, most_tokens, end, micro)
    else:
        own = [Row(row, seed, most_tokens) for row, seed in zip(rows, seeds, strict=True)]
        write_rows(cast(TextModel, policy.engine.model), own, how, stop_tokens=(end,))
        written = [(row.tokens, row.logprobs) for row in own]
    return as_rollout(rows, written, end, policy.engine.device)


def _written_in_shards(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    how: Sampling,
    most_tokens: int,
    end: int,
    micro: int,
) -> list[tuple[list[int], list[float]]]:
    """New tokens and their log-probabilities by a model of which no rank holds the whole.

    Each token takes passes over the whole text in which all ranks take part, until the last row of
    the last rank has ended.
    """
    written: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
    running = set(range(len(prompts)))
    with evaluating(engine):
        for place in range(most_tokens):
            [anywhere] = distributed.sum_over_ranks([len(running)], engine.device)
            if not anywhere:
                break
            texts = [[*row, *new] for row, (new, _) in zip(prompts, written, strict=True)]
            longest = max(map(len, texts))
            for start in range(0, len(texts), micro):
                padded = [row + [end] * (longest - len(row)) for row in texts[start:][:micro]]
                logits = engine.forward(torch.tensor(padded, device=engine.device))  # (b, T, V)
                for row, own in enumerate(logits, start):
                    if row in running:
                        last = own[len(texts[row]) - 1][None].float()  # (1, V)
                        token = int(draw(last, how, [seeds[row]], place))
                        likely = (last[0] / how.temperature).log_softmax(0)[token]
                        written[row][0].append(token)
                        written[row][1].append(float(likely))
            running -= {row for row in running if written[row][0][-1] == end}
    return written


def as_rollout(
    prompts: Sequence[Sequence[int]],
    written: Sequence[tuple[list[int], list[float]]],
    end: int,
    device: torch.device,
) -> Rollout:
    """Prompts with what was written behind them, as tensors."""
    lengths = [(len(row), len(new)) for row, (new, _) in zip(prompts, written, strict=True)]
    width = max(before + new for before, new in lengths)
    tokens = np.full((len(prompts), width), end)
    mask = np.zeros((len(prompts), width - 1), dtype=np.bool_)
    sampled = np.zeros((len(prompts), width - 1), dtype=np.float32)
    for row, (before, new) in enumerate(lengths):
        own = slice(before - 1, before - 1 + new)
        tokens[row, : before + new] = [*prompts[row], *written[row][0]]
        mask[row, own], sampled[row, own] = True, written[row][1]
    ended = [new[-1] == end for new, _ in written]
    return Rollout(
        torch.from_numpy(tokens).to(device),
        torch.from_numpy(mask).to(device),
        torch.from_numpy(sampled).to(device),
        torch.tensor(ended, device=device),
    )


def token_logprobs(engine: Engine, rollout: Rollout, temperature: float, micro: int) -> Tensor:
    """Log-probabilities (B, T), 0 outside the mask, as an update will see them before its step.

    Every rank calls it. Passes are made of `micro` answers, without dropout and gradient.
    """

    def of_part(part: Rollout) -> Tensor:
        found: Tensor = engine.forward(
            part.tokens[:, :-1],
            targets=part.tokens[:, 1:],
            loss_mask=part.mask,
            temperature=temperature,
        )
        return found[..., 0]

    return by_parts(engine, of_part, rollout, micro)


def by_parts(
    engine: Engine, of_part: Callable[[Rollout], Tensor], rollout: Rollout, micro: int
) -> Tensor:
    """What passes of an engine over `micro` answers each tell of tokens, (B, T); no gradient.

    As in an update, none is filled up beyond its own longest answer.
    """
    T, parts = rollout.mask.shape[1], (rollout.at(rows) for rows in slices(len(rollout), micro))
    with evaluating(engine):
        found = [of_part(part.cut(part.longest)) for part in parts]
    return torch.cat([functional.pad(own, (0, T - own.shape[1])) for own in found])


def slices(rows: int, micro: int) -> Iterator[slice]:
    """Cuts of so many rows into micro-batches."""
    return (slice(start, start + micro) for start in range(0, rows, micro))


def step_ids(
    step: int, batch: int, mini_batches: int, micro: int, rank: int, world_size: int
) -> NDArray[np.int64]:
    """Numbers in the run of the answers that a rank has in a step, (B,), in their order.

    They are cut so that each mini-batch of a step holds the same answers however many ranks there
    are: of each one a rank has every world_size-th micro-batch.

    Args:
        step: from 1 on.
        batch: answers of a step over all ranks, a multiple of mini_batches x micro x world_size.
        mini_batches: optimizer steps in which each answer is seen once.
        micro: answers of a micro-batch.
        rank: of this process.
        world_size: number of ranks.
    """
    line = np.arange((step - 1) * batch, step * batch).reshape(mini_batches, -1, micro)
    return line[:, rank::world_size].reshape(-1)
