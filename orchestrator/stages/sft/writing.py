"""Answers in writing: exact match and token F1 of the saved weights, beside few-shot prompting.

N questions.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster.heart import Heart
from data.chat import ChatTemplate
from data.records import Message
from models.decoding import Sampling, TextModel, generate
from orchestrator.stages.result import Table, share
from orchestrator.stages.sft.scoring import CONFIDENCE, LONGEST_ANSWER, RESAMPLES
from orchestrator.training.patience import SAMPLING

MOST_OF_A_KIND = 300  # questions that are answered in writing, so that it takes seconds
TOGETHER = 64  # questions
Grades = Mapping[str, Mapping[str, Sequence[float]]]
"""For each kind of what is held out: `exact` and `f1` of each of its questions. Plain numbers, for
a checkpoint."""


@dataclass(frozen=True)
class Examiner:
    """Asks held-out questions, each as the last of its conversation."""

    chat: ChatTemplate
    questions: Sequence[tuple[Sequence[Message], str]]
    """Conversations that end with the right answer, and their kinds."""
    most_tokens: int
    """Of a conversation."""

    def grade(
        self, model: TextModel, heart: Heart, shots: Sequence[Sequence[Message]] = ()
    ) -> Grades:
        """Exact match and token F1 of what a model writes, the likeliest token each time.

        Args:
            model: writes text.
            heart: of this rank.
            shots: conversations to put before each question, as many as there is room for.
        """
        prompts = [self._prompt(messages[:-1], shots) for messages, _ in self.questions]
        grades: dict[str, dict[str, list[float]]] = {}
        end = self.chat.tokenizer.end_of_text
        written = _written(model, prompts, end, self.most_tokens, heart)
        for (messages, kind), tokens in zip(self.questions, written, strict=True):
            own = grades.setdefault(kind, {"exact": [], "f1": []})
            answer, wanted = self.chat.tokenizer.decode(tokens), messages[-1][1]
            own["exact"].append(float(answer == wanted))
            own["f1"].append(token_f1(answer, wanted))
        return grades

    def _prompt(self, messages: Sequence[Message], shots: Sequence[Sequence[Message]]) -> list[int]:
        """The tokens of a question behind as many whole conversations as fit."""
        prompt = self.chat.prompt(messages)
        before: list[Message] = []
        for shot in shots:
            longer = self.chat.prompt([*before, *shot, *messages])
            if len(longer) + LONGEST_ANSWER <= self.most_tokens:
                before, prompt = [*before, *shot], longer
        return prompt


def _written(
    model: TextModel, prompts: Sequence[list[int]], end: int, most_tokens: int, heart: Heart
) -> list[list[int]]:
    """What a model writes behind each prompt up to the end token, which is left out."""
    found: dict[int, list[int]] = {}
    by_length = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    for start in range(0, len(prompts), TOGETHER):
        group = by_length[start : start + TOGETHER]
        heart.beat(SAMPLING)
        room = min(LONGEST_ANSWER, most_tokens - len(prompts[group[-1]]))
        rows = generate(
            model,
            [prompts[n] for n in group],
            room,
            Sampling(temperature=0),
            stop_tokens=(end,),
        ).rows()
        found |= zip(group, ([t for t in row if t != end] for row in rows), strict=True)
    return [found[n] for n in range(len(prompts))]


def token_f1(answer: str, wanted: str) -> float:
    """Harmonic mean of precision and recall of words, as SQuAD has it (Rajpurkar et al. 2016)."""
    own, theirs = (Counter(re.findall(r"\w+", text.lower())) for text in (answer, wanted))
    common = (own & theirs).total()
    return 2 * common / (own.total() + theirs.total()) if common else 0.0


def metrics_of(grades: Grades) -> dict[str, float]:
    """As the record has them."""
    whole = {what: [v for own in grades.values() for v in own[what]] for what in ("exact", "f1")}
    return {f"written/{what}": float(np.mean(values)) for what, values in whole.items()}


def table(few_shot: Grades | None, after: Grades, seed: int) -> Table:
    """Fine-tuning beside prompting; intervals of exact ones by Wilson 1927, of F1 bootstrapped over
    questions (Efron 1979).

    Args:
        few_shot: of the weights before training, with examples in the prompt. None: there were
            none.
        after: of the weights that the run gives, without examples.
        seed: of the resampling.
    """
    rows = []
    for kind, own in after.items():
        for what, told in (("exact", _share), ("F1", _mean)):
            pair = (None if few_shot is None else few_shot[kind], own)
            cells = ("-" if one is None else told(one[what.lower()], seed) for one in pair)
            rows.append((f"{kind}: {what}", f"{len(own['exact']):,}", *cells))
    heads = ("answered in writing", "number", "few-shot, before", "after")
    return Table("answers_in_writing", heads, tuple(rows))


def _share(values: Sequence[float], _: int) -> str:
    return share(float(np.mean(values)), len(values))


def _mean(values: Sequence[float], seed: int) -> str:
    own: NDArray[np.float64] = np.array(values)
    drawn = np.random.default_rng(seed).integers(0, len(own), (RESAMPLES, len(own)))
    low, high = np.quantile(own[drawn].mean(1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return f"{own.mean():.1%} ({low:.1%} to {high:.1%})"
