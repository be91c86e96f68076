"""What a writer is asked: prompts of a file, or questions about functions of Python."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from data.contract import ColumnError
from data.files import DataError
from data.messages import listed
from data.records import CONVERSATIONS, Message, conversation
from data.sources.conversations import named, rows_of
from data.sources.python_questions import questions

PROMPT = "prompt"


@dataclass(frozen=True)
class Prompt:
    """Messages behind which an answer is to come."""

    messages: tuple[Message, ...]
    reference: str | None = None
    """The answer of the data, where there is one: revisions are measured by it, and know nothing of
    it."""

    @property
    def text(self) -> str:
        """What the user says last."""
        return next(content for role, content in reversed(self.messages) if role == "user")


def python_prompts(seed: int) -> Iterator[Prompt]:
    """One question of each kind about each function, in a wording that models are trained on."""
    for own in questions(seed):
        if not (own.again or own.new_wording):
            yield Prompt((("user", own.asked),), own.answer)


def file_prompts(path: str) -> Iterator[Prompt]:
    """The prompts of files, in their order, each once.

    Args:
        path: as of `file_conversations`, with a column "prompt" (a text), or "messages" or
            "conversations", of which the last answer is left out.

    Raises:
        DataError: nothing is there, a file is damaged, or a row is no prompt; names both.
    """
    seen = set()
    for where, row in rows_of(path, _columns):
        with named(where):
            prompt = _prompt(row)
        if prompt.messages not in seen:
            seen.add(prompt.messages)
            yield prompt


def _columns(where: str, names: list[str]) -> list[str]:
    for name in (PROMPT, *CONVERSATIONS):
        if name in names:
            return [name]
    raise ColumnError(
        f"{where} has no column {PROMPT} or {' or '.join(CONVERSATIONS)}; it has {listed(names)}"
    )


def _prompt(row: object) -> Prompt:
    assert isinstance(row, dict)  # as `rows_of` gives them
    [(column, value)] = row.items()
    if column != PROMPT:
        messages = conversation(value, column)
        last = max(n for n, (role, _) in enumerate(messages) if role == "assistant")
        return Prompt(tuple(messages[:last]), messages[last][1])
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{PROMPT} must be a text that is not empty")
    return Prompt((("user", value),))


def spread(prompts: Sequence[Prompt], most: int) -> list[Prompt]:
    """At most so many of them, from all over: neighbours may ask the same."""
    number = min(most, len(prompts))
    return [prompts[place * len(prompts) // number] for place in range(number)]
