"""Conversations and preference pairs in files: tables of messages, Hugging Face datasets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from glob import glob
from pathlib import Path
from typing import Any

from data.config import SourceConfig
from data.contract import ColumnError
from data.files import DataError
from data.messages import listed
from data.records import CONVERSATIONS, Message, conversation, preference
from data.sources.conversation import Conversation, Preference
from data.sources.hub import hub_units, read_hub
from data.sources.table_files import table_parts

HUB = "hf:"  # before the name or folder of a Hugging Face dataset
PAIR = ("chosen", "rejected")
Chosen = Callable[[str, list[str]], list[str]]  # a file and its columns -> those to read


def file_conversations(path: str) -> Iterator[Conversation]:
    """The conversations of files, in their order; the key of each is its first question.

    Args:
        path: a file or glob of .jsonl, .parquet, .arrow, also .gz or .zst, with a column
            "messages" or "conversations"; or hf:NAME, hf:NAME:SUBSET, hf:FOLDER.

    Raises:
        DataError: nothing is there, a file is damaged, or a row is no conversation; names both.
    """
    for where, row in rows_of(path, _conversation_column):
        [(column, value)] = row.items()
        with named(where):
            messages = tuple(conversation(value, column))
        yield Conversation(messages, first_question(messages))


def file_preferences(path: str) -> Iterator[Preference]:
    """The preference pairs of files, in their order; the key of each is its first question.

    Args:
        path: as of `file_conversations`, with columns "chosen" and "rejected": lists of messages,
            or texts that answer a column "prompt".

    Raises:
        DataError: nothing is there, a file is damaged, or a row is no pair; names both.
    """
    for where, row in rows_of(path, _pair_columns):
        with named(where):
            chosen, rejected = preference(row)
        yield Preference(tuple(chosen), tuple(rejected), first_question(chosen))


@contextmanager
def named(where: str) -> Iterator[None]:
    """Put the place of a row before what is wrong with it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def first_question(messages: Sequence[Message]) -> str:
    """What the user asks first: what a conversation is about."""
    return next(content for role, content in messages if role == "user")


def rows_of(path: str, columns: Chosen) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each row with its place, as far as it is needed."""
    if path.startswith(HUB):
        config = SourceConfig(source="hf", path=path.removeprefix(HUB))
        for unit in hub_units(config):
            yield from read_hub(config, unit, partial(columns, path))
        return
    for name in sorted(glob(path)) or [path]:  # noqa: PTH207 - an absolute pattern, too
        if not Path(name).is_file():
            raise DataError(f"{name} is no file; give one of .jsonl or .parquet, or hf:NAME")
        number = 0
        for part in table_parts(Path(name)):
            chosen = columns(name, part.schema.names)
            for row in part.select(chosen).to_pylist():
                number += 1
                yield f"{name}: row {number}", {key: _whole(own) for key, own in row.items()}


def _conversation_column(where: str, names: list[str]) -> list[str]:
    for name in CONVERSATIONS:
        if name in names:
            return [name]
    raise ColumnError(f"{where} has no column {' or '.join(CONVERSATIONS)}; it has {listed(names)}")


def _pair_columns(where: str, names: list[str]) -> list[str]:
    for name in PAIR:
        if name not in names:
            raise ColumnError(f"{where} has no column {name}; it has {listed(names)}")
    return [name for name in ("prompt", *PAIR) if name in names]


def _whole(value: Any) -> Any:
    """Messages without the keys that only messages of other rows have: a table fills them."""
    if not isinstance(value, list):
        return value
    return [
        {key: own for key, own in item.items() if own is not None}
        if isinstance(item, Mapping)
        else item
        for item in value
    ]
