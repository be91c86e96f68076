"""What is to be judged: two answers to one question, or a single one; and what is made of it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

from data.messages import counted, shown

MOST_LINE = 2**22  # bytes: more than a person reads


@dataclass(frozen=True)
class Item:
    """A question with the answer to rate, or with two to compare."""

    prompt: str
    first: str
    second: str | None = None
    gold: float | None = None
    """What is known of it: 1 if the first answer is better, 0 if the second; or its rating."""

    @property
    def id(self) -> str:
        """Names the item by its content: read again, it is the same."""
        content = json.dumps([self.prompt, self.first, self.second], ensure_ascii=False)
        return sha256(content.encode()).hexdigest()[:32]


def read_items(path: Path) -> list[Item]:
    """The items of a JSONL file, each once.

    A row has "prompt" and "answers": a list of one text to rate, or of several, of which every two
    are compared. Of an item that is known, "gold" is the place of the best answer in the list,
    from 0, or the rating.

    Raises:
        ValueError: the file can't be read, or a row is no such thing; names the row.
    """
    found: dict[str, Item] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MOST_LINE + 1), b""), 1):
                if line.strip():
                    found |= {item.id: item for item in _row(line, f"{path}: line {number}")}
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}; give a JSONL file") from None
    if not found:
        raise ValueError(
            f'{path} has no row; a row is {{"prompt": "...", "answers": ["...", ...]}}'
        )
    kinds = {item.second is None for item in found.values()}
    if len(kinds) > 1:
        raise ValueError(f"{path} has answers to rate and answers to compare; make it two files")
    return list(found.values())


def _row(line: bytes, where: str) -> Iterator[Item]:
    if len(line) > MOST_LINE:
        raise ValueError(f"{where} has more than {MOST_LINE:,} bytes; nobody reads that")
    try:
        row: Any = json.loads(line)
    except ValueError as error:  # no UTF-8, too
        raise ValueError(f"{where} is no JSON ({error}); repair it") from None
    row = row if isinstance(row, dict) else {}
    prompt, answers = row.get("prompt"), row.get("answers")
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError(f'{where} needs "prompt", a text that is not empty')
    if not isinstance(answers, list) or not answers or set(map(type, answers)) != {str}:
        raise ValueError(f'{where} needs "answers", a list of one text or more')
    if len(set(answers)) < len(answers):
        twice = next(answer for answer in answers if answers.count(answer) > 1)
        raise ValueError(f"{where} has an answer twice ({shown(twice)}); nobody can choose")
    gold = row.get("gold")
    if gold is not None and (isinstance(gold, bool) or not isinstance(gold, int | float)):
        raise ValueError(f"{where}: gold={gold!r} must be a number")
    if len(answers) == 1:
        if gold is not None and not 1 <= gold <= 5:
            raise ValueError(f"{where}: gold={gold} must be a rating from 1 to 5")
        yield Item(prompt, answers[0], gold=gold)
        return
    if gold is not None and gold not in range(len(answers)):
        raise ValueError(
            f"{where}: gold={gold} must be the place of one of {counted(len(answers), 'answer')}, "
            f"0 to {len(answers) - 1}"
        )
    for one, two in combinations(range(len(answers)), 2):
        if gold is None or gold in (one, two):
            known = None if gold is None else float(gold == one)
            yield Item(prompt, answers[one], answers[two], known)


def exported(judged: Sequence[tuple[Item, Sequence[float]]]) -> Iterator[dict[str, Any]]:
    """The rows that a job reads: the answer with more votes is chosen, a rating is their mean."""
    for item, votes in judged:
        value, told = mean(votes), {"prompt": item.prompt}
        if item.second is None:
            yield {**told, "answer": item.first, "rating": value, "votes": len(votes)}
        elif value != 0.5:
            first = value > 0.5
            yield {
                **told,
                "chosen": item.first if first else item.second,
                "rejected": item.second if first else item.first,
                "margin": abs(2 * value - 1),
                "votes": len(votes),
            }
