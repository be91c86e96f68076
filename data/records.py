"""Records: what a row of a source becomes. A text, a conversation, or a pair of answers.

A conversation is one text, made by this template (<|...|> are plain characters, no special tokens):

    <|system|>
    You answer in one word.<|end|>
    <|user|>
    Capital of France?<|end|>
    <|assistant|>
    Paris<|end|>

Trained on is each answer of the assistant together with its <|end|>, by which the model learns to
stop; what it is asked is only read. A message that holds a mark of the template is refused: it
could pretend to be another one.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from data.config import SourceConfig
from data.contract import ColumnError, check_utf8, kind_of, no_column, text_of
from data.files import DataError
from data.messages import listed, shown

Span = tuple[int, int]
Message = tuple[str, str]  # (role, content)
# texts, spans of each, and what messages call each
Built = tuple[tuple[str, ...], tuple[tuple[Span, ...], ...], tuple[str, ...]]
ROLES = ("system", "user", "assistant")
END = "<|end|>"
MARKS = (*(f"<|{role}|>" for role in ROLES), END)
CONVERSATIONS = ("messages", "conversations")
# Roles of the ShareGPT format, whose messages have `from` and `value`.
SHAREGPT = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


@dataclass(frozen=True, slots=True)
class Record:
    """One unit of a source, checked."""

    texts: tuple[str, ...]
    """One text; for a preference pair two: the chosen and the rejected conversation, whole."""
    place: str
    """File and row, counted from 1: "corpus/a.jsonl:17", "b.parquet: row 5"."""
    spans: tuple[tuple[Span, ...], ...] = ()
    """Per text: which characters [start, stop) are trained on. (): all of every text."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Values of the columns that the contract or a filter names."""
    part: int = 0
    """Of a text too long for one document; 0: the first."""


def render(messages: Iterable[Message]) -> tuple[str, tuple[Span, ...]]:
    """The text of a conversation, and where its answers stand in it (each with its END)."""
    parts: list[str] = []
    spans: list[Span] = []
    length = 0
    for role, content in messages:
        head = f"{chr(10) if parts else ''}<|{role}|>\n"
        parts += [head, content, END]
        start = length + len(head)
        length = start + len(content) + len(END)
        if role == "assistant":
            spans.append((start, length))
    return "".join(parts), tuple(spans)


def columns_read(config: SourceConfig, names: Iterable[str]) -> list[str]:
    """Which columns of those that a file has are needed to make its records.

    Raises:
        ColumnError: one is missing.
    """
    names = list(names)
    if config.records == "text":
        if config.text_column not in names:
            raise no_column("data.text_column", config.text_column, names)
        return [config.text_column]
    if config.records == "conversations":
        return [_conversation_column(config, names)]
    for name in ("chosen", "rejected"):
        if name not in names:
            raise ColumnError(
                f"data.records=preferences needs a column {name}; there are: {listed(names)}"
            )
    return [name for name in ("prompt", "chosen", "rejected") if name in names]


def builder(config: SourceConfig) -> Callable[[Mapping[str, Any]], Built]:
    """The function that makes of a row (texts, spans, what messages call each text).

    It raises DataError when the row is no such record; file and row are put in front by the caller.
    """
    if config.records == "text":
        column = config.text_column

        def text(row: Mapping[str, Any]) -> Built:
            if column not in row:
                raise no_column("data.text_column", column, row)
            return (text_of(row[column], column),), (), (column,)

        return text
    if config.records == "conversations":
        return lambda row: _conversation(row, _conversation_column(config, row))

    def pair(row: Mapping[str, Any]) -> Built:
        columns_read(config, row)  # raises for a column that is missing
        return _preference(row)

    return pair


def _conversation_column(config: SourceConfig, names: Iterable[str]) -> str:
    """data.text_column where it was set, else `messages` or `conversations`."""
    own = config.text_column
    allowed = CONVERSATIONS if own == "text" else (own,)
    names = list(names)
    for name in allowed:
        if name in names:
            return name
    raise ColumnError(
        f"data.records=conversations needs a column {' or '.join(allowed)}; there are: "
        f"{listed(names)} (set data.text_column=NAME)"
    )


def _conversation(row: Mapping[str, Any], column: str) -> Built:
    text, spans = render(conversation(row[column], column))
    return (text,), (spans,), (column,)


def conversation(value: Any, column: str) -> list[Message]:
    """The messages of a value, which must be a conversation that ends with an answer.

    Raises:
        DataError: it is none; names the column and the message.
    """
    return _checked(_messages(value, column), column)


def _messages(value: Any, column: str) -> list[Message]:
    """The (role, content) of a list of messages in one of the two formats."""
    if not isinstance(value, list):
        raise ColumnError(f"{column} holds {shown(value)}, not a list of messages")
    return [_message(item, f"{column}[{number}]") for number, item in enumerate(value)]


def _message(item: Any, where: str) -> Message:
    if not isinstance(item, Mapping):
        raise DataError(f"{where} is {shown(item)}, not an object with role and content")
    if "role" in item:
        role, content = item["role"], item.get("content")
    elif "from" in item:
        role, content = SHAREGPT.get(str(item["from"]), item["from"]), item.get("value")
    else:
        names = listed(item) if item else "nothing"
        raise DataError(f"{where} has {names}; it needs role and content (or from and value)")
    if role not in ROLES:
        raise DataError(f"{where}: role {shown(role)} is not one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise DataError(f"{where}: its content is of type {kind_of(content)}, not a text")
    if not content.strip():
        raise DataError(f"{where}: its content is empty ({shown(content)})")
    check_utf8(content, where)
    for mark in MARKS:
        if mark in content:
            raise DataError(
                f"{where}: its content holds {mark}, a mark of the template, which no message may; "
                "remove it or drop the record"
            )
    return role, content


def _checked(messages: list[Message], column: str) -> list[Message]:
    """The same messages, if they are a conversation that ends with an answer."""
    start = 1 if messages and messages[0][0] == "system" else 0
    for number, (role, _) in enumerate(messages[start:], start=start):
        expected = "user" if (number - start) % 2 == 0 else "assistant"
        if role != expected:
            raise DataError(
                f"{column}[{number}] is of the {role} where the {expected} should speak; after an "
                "optional system message user and assistant take turns"
            )
    if len(messages) < start + 2 or messages[-1][0] != "assistant":
        last = f"ends with the {messages[-1][0]}" if messages else "has no message"
        raise DataError(f"{column} {last}; it must end with an answer of the assistant")
    return messages


def preference(row: Mapping[str, Any]) -> tuple[list[Message], list[Message]]:
    """The chosen and the rejected conversation of a row, which differ only in the last answer.

    Raises:
        DataError: they are no such pair; names the column and the message.
    """
    prompt = row.get("prompt")
    chosen, rejected = (answered(prompt, row[name], name) for name in ("chosen", "rejected"))
    if chosen[:-1] != rejected[:-1]:
        at = next(
            (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b),
            min(len(chosen), len(rejected)),
        )
        raise DataError(
            f"chosen and rejected differ before the last answer, at message {at}; they must share "
            "all of the conversation but its last answer"
        )
    if chosen == rejected:
        raise DataError(f"chosen and rejected are the same ({shown(chosen[-1][1])}); drop the pair")
    return chosen, rejected


def _preference(row: Mapping[str, Any]) -> Built:
    """Both conversations of a pair, of each of which the last answer is trained on."""
    rendered = [render(messages) for messages in preference(row)]
    texts = tuple(text for text, _ in rendered)
    return texts, tuple(spans[-1:] for _, spans in rendered), ("chosen", "rejected")


def answered(prompt: Any, answer: Any, column: str) -> list[Message]:
    """The whole conversation of an answer, which may be a text or messages.

    Raises:
        DataError: it is none; names the column and the message.
    """
    if isinstance(answer, str):
        if isinstance(prompt, list):
            return _checked([*_messages(prompt, "prompt"), _answer(answer, column)], column)
        if prompt is None:
            raise ColumnError(
                f"{column} is a text, so a column prompt must say what it answers; add the column, "
                f"or make {column} a list of messages"
            )
        question = _message({"role": "user", "content": prompt}, "prompt")
        return [question, _answer(answer, column)]
    messages = _messages(answer, column)
    if isinstance(prompt, list):  # then the lists hold only what follows it
        messages = [*_messages(prompt, "prompt"), *messages]
    return _checked(messages, column)


def _answer(text: str, column: str) -> Message:
    return _message({"role": "assistant", "content": text}, column)
