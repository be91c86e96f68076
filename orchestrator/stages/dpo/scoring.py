"""What a policy answers by itself: its reward by a rule, and its distance from the reference.

N answers, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from data import Tokenizer
from data.messages import cut
from models.decoding import Sampling, row_seeds
from orchestrator.stages.dpo.pairs import Split
from orchestrator.stages.language.sampling import continued
from orchestrator.stages.result import Table
from orchestrator.stages.rewards import Rule
from orchestrator.training.engine import Engine
from orchestrator.training.loop import evaluating
from orchestrator.training.preferences import answer_logprobs

LONGEST_ANSWER = 32  # tokens
RESAMPLES = 2000
CONFIDENCE = 0.95
SHOWN, LONGEST_SHOWN = 4, 60  # answers in the table of them, characters of one
DRAWN = Sampling()
"""As the model says, so that means over answers are those of the policy."""
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Questions:
    """Held-out questions for a policy to answer."""

    prompts: list[list[int]]
    """(N,) rows of tokens behind which an answer begins."""
    asked: list[str]
    right: list[str]
    """The answers of the data."""
    end: int
    """The token that ends an answer."""
    most_tokens: int
    """Of a question with its answer."""

    @classmethod
    def of(
        cls, split: Split, texts: Sequence[Sequence[str]], number: int, most_tokens: int
    ) -> "Questions":
        """So many of a split, spread over it.

        Args:
            split: the held-out pairs.
            texts: what each asks, and the answer of the data.
            number: of questions, or all where there are fewer.
            most_tokens: of a question with its answer.
        """
        first: dict[str, int] = {}
        for pair, text in enumerate(texts):
            first.setdefault(text[0], pair)
        pairs = list(first.values())
        places = np.linspace(0, len(pairs) - 1, min(number, len(pairs))).astype(np.int64)
        chosen = [pairs[place] for place in places]
        prompts = [split.prompt(pair) for pair in chosen]
        asked, right = [texts[pair][0] for pair in chosen], [texts[pair][1] for pair in chosen]
        return cls(prompts, asked, right, split.filling, most_tokens)


def answer(engine: Engine, questions: Questions, seed: int) -> list[list[int]]:
    """An answer to each question in tokens, drawn from the policy. Every rank calls it."""
    prompts = questions.prompts
    most = questions.most_tokens
    ends = [min(len(prompt) + LONGEST_ANSWER, most) for prompt in prompts]
    seeds = row_seeds(seed, len(prompts))
    rows = continued(engine, prompts, ends, stop=questions.end, seeds=seeds, sampling=DRAWN)
    return [row[len(prompt) :] for prompt, row in zip(prompts, rows, strict=True)]


def texts(answers: Sequence[Sequence[int]], tokenizer: Tokenizer) -> list[str]:
    """Answers without the token that ends them."""
    end = tokenizer.end_of_text
    return [tokenizer.decode([token for token in own if token != end]) for own in answers]


def rewards(rule: Rule, questions: Questions, given: Sequence[str]) -> Values:
    """(N,) of texts by a rule."""
    told = zip(questions.asked, given, questions.right, strict=True)
    return np.array([rule(*own) for own in told], dtype=np.float64)


def divergences(
    policy: Engine, reference: Engine, questions: Questions, answers: Sequence[Sequence[int]]
) -> Values:
    """(N,): log p - log q of each answer that was drawn from p, in nats. Every rank calls it.

    Their mean estimates the Kullback-Leibler divergence of the policy from the reference without a
    bias (Schulman 2020, k1).
    """
    rows = [[*p, *own] for p, own in zip(questions.prompts, answers, strict=True)]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [questions.end] * (longest - len(row)) for row in rows])
    places = torch.arange(1, longest)
    starts = torch.tensor([len(prompt) for prompt in questions.prompts])[:, None]
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    mask = ((places >= starts) & (places < lengths)).to(policy.device)  # (N, T)
    tokens = tokens.to(policy.device)
    told = []
    for engine in (policy, reference):
        with evaluating(engine):
            losses = engine.forward(tokens[:, :-1], targets=tokens[:, 1:])
            told.append(answer_logprobs(losses, mask).double().cpu().numpy())
    return np.asarray(told[0] - told[1])


def interval(values: Values, seed: int) -> tuple[float, float, float]:
    """The mean with the percentile bootstrap interval of it (Efron 1979)."""
    drawn = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    means = values[drawn].mean(1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(values.mean()), float(low), float(high)


def told(found: tuple[float, float, float], form: str = "{:.3f}") -> str:
    """A value with its interval."""
    mean, low, high = (form.format(own) for own in found)
    return f"{mean} ({low} to {high})"


def examples(questions: Questions, before: Sequence[str], after: Sequence[str]) -> Table:
    """A few questions with the answers before and after."""
    places = np.linspace(0, len(before) - 1, min(SHOWN, len(before))).astype(np.int64)
    rows = tuple(
        (
            cut(questions.asked[place].splitlines()[-1], LONGEST_SHOWN),
            cut(before[place], LONGEST_SHOWN),
            cut(after[place], LONGEST_SHOWN),
        )
        for place in places
    )
    return Table("examples", ("question", "before", "after"), rows)
