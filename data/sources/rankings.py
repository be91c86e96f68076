"""Ranked and rated answers: in files, and made of Python's documentation by a rule."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data.contract import ColumnError
from data.files import DataError
from data.messages import listed
from data.records import answered, preference
from data.sources.conversation import Preference, Ranking
from data.sources.conversations import PAIR, first_question, named, rows_of
from data.sources.python_questions import ASKED, Question, questions

ANSWERS, ANSWER, RATING, MARGIN = "answers", "answer", "rating", "margin"
FORMS = (PAIR, (ANSWERS,), (ANSWER, RATING))
"""Columns of a row, one form or another: a pair, a ranking, an answer with its rating."""
Score = Callable[[str, str, str], float]
"""(prompt, answer, reference answer) -> score."""


def file_rankings(path: str) -> Iterator[Ranking]:
    """The ranked answers of files, in their order; the key of each is its first question.

    Args:
        path: as of `file_conversations`, with columns "chosen" and "rejected" (and "margin"); or
            "answers", the best first; or "answer" and "rating". What they answer is a column
            "prompt", unless they are lists of messages.

    Raises:
        DataError: nothing is there, a file is damaged, or a row ranks nothing; names both.
    """
    for where, row in rows_of(path, _columns):
        with named(where):
            answers, scores = _ranked(row)
            margin = 0.0 if row.get(MARGIN) is None else _number(row[MARGIN], MARGIN)
            if margin < 0:
                raise DataError(f"{MARGIN} is {margin}, and must be at least 0")
        yield Ranking(answers, first_question(answers[0]), scores, margin=margin)


def _columns(where: str, names: list[str]) -> list[str]:
    for form in FORMS:
        if set(form) <= set(names):
            return [name for name in ("prompt", *form, MARGIN) if name in names]
    raise ColumnError(
        f"{where} has {listed(names)}; it needs columns {PAIR[0]} and {PAIR[1]}, or {ANSWERS}, or "
        f"{ANSWER} and {RATING}"
    )


def _ranked(row: Mapping[str, Any]) -> tuple[tuple[Any, ...], tuple[float, ...] | None]:
    """The conversations of a row, the best first, and their ratings if it has any."""
    if PAIR[0] in row:
        return tuple(map(tuple, preference(row))), None
    if ANSWER in row:
        own = tuple(answered(row.get("prompt"), row[ANSWER], ANSWER))
        return (own,), (_number(row[RATING], RATING),)
    given = row[ANSWERS]
    if not isinstance(given, list) or len(given) < 2:
        raise DataError(f"{ANSWERS} must be a list of two answers or more, the best first")
    ranked = [
        answered(row.get("prompt"), own, f"{ANSWERS}[{place}]") for place, own in enumerate(given)
    ]
    if len({str(own) for own in ranked}) < len(ranked):
        raise DataError(f"{ANSWERS} holds an answer twice, so its place is not known; drop one")
    if any(own[:-1] != ranked[0][:-1] for own in ranked):
        raise DataError(f"{ANSWERS} differ before the last answer; they must share the rest")
    return tuple(map(tuple, ranked)), None


def _number(value: Any, column: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{column} is {value!r}, and must be a finite number")
    return float(value)


def python_rankings(seed: int, score: Score, most: int) -> Iterator[Ranking]:
    """Answers to questions about functions of Python, some of them damaged, in a rule's order.

    Args:
        seed: of the questions, the answers and the damage.
        score: the rule.
        most: answers of a question; no two have the same score, and one with fewer than two such
            answers is left out.
    """
    for own in questions(seed):
        if own.new_wording or own.again:
            continue
        draw = random.Random(f"{seed} answers {own.asked}")
        given = list(dict.fromkeys(_answers(own, draw)))
        draw.shuffle(given)
        by_score = {score(own.asked, answer, own.answer): answer for answer in given}
        drawn = draw.sample(sorted(by_score), min(most, len(by_score)))
        if len(drawn) > 1:
            scores = tuple(sorted(drawn, reverse=True))
            asked = ("user", own.asked)
            answers = tuple((asked, ("assistant", by_score[own_score])) for own_score in scores)
            yield Ranking(answers, own.function.name, scores, own.answer)


def python_preferences(seed: int, score: Score) -> Iterator[Preference]:
    """Two answers of each question, of which a rule prefers one; see `python_rankings`."""
    for own in python_rankings(seed, score, most=2):
        chosen, rejected = own.answers
        yield Preference(chosen, rejected, own.key, own.reference)


def _answers(own: Question, draw: random.Random) -> Iterator[str]:
    """Right and wrong answers, answers to other questions, and each of them damaged."""
    kinds = [own.function.answer(kind) for kind in ASKED]
    for text in (own.answer, own.wrong, *kinds):
        words = text.split()
        yield text
        yield text.removesuffix(".")
        yield text[:1].swapcase() + text[1:]
        yield f"{text} {text}"
        yield " ".join(word for word in words for _ in range(draw.randint(1, 2)))
        yield " ".join(words[: draw.randint(1, len(words))])
