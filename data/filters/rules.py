"""What a filter is: a frozen dataclass whose fields are its options, and a judgement of records.

Options are declared with `option`, which carries the range, so that one function can check all of
them and every message names the setting, its value and what would do.
"""

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from data.files import DataError
from data.messages import did_you_mean
from data.records import Record

EXCERPT = 200  # characters of a text that a report shows
R = TypeVar("R", bound="Rule")
_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a text is left out."""

    reason: str
    """One of few, because reports count by it."""
    at: int = 0
    """Character that the excerpt should show."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A filter's answer on a record."""

    record: Record
    """The record that goes on; changed if something was redacted."""
    reason: str | None = None
    """Why it is left out; None: it stays."""
    excerpt: str = ""
    """The part of the text that shows the reason, or what was redacted."""
    redactions: Mapping[str, int] = field(default_factory=dict)
    """How many pieces of each kind were replaced."""


def excerpt(text: str, at: int = 0) -> str:
    """At most EXCERPT characters of a text around a place in it, on one line."""
    start = max(0, min(at - EXCERPT // 4, len(text) - EXCERPT))
    return " ".join(text[start : start + EXCERPT].split())


def limits(
    *, low: float | None = None, high: float | None = None, choices: Sequence[str] = ()
) -> dict[str, Any]:
    """What the value of an option (of a list: each item) must satisfy; both ends are allowed."""
    return {"low": low, "high": high, "choices": tuple(choices)}


def option(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
) -> Any:
    """A field of a filter, with what its value must satisfy."""
    return field(default=default, metadata=limits(low=low, high=high, choices=choices))


@dataclass(frozen=True)
class Rule:
    """One filter. Subclasses implement `find` (a text at a time) or `judge` (the whole record)."""

    example: ClassVar[str] = ""
    """A working entry of data.filters, for messages."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose version decides what the filter does."""

    def check(self, where: str) -> None:
        """Check options against each other; `where` is the setting, for messages.

        Raises:
            DataError: options that don't go together, or a file that can't be read.
        """

    def columns(self) -> tuple[str, ...]:
        """Columns of the record that the filter reads."""
        return ()

    def files(self) -> tuple[Path, ...]:
        """Files whose content decides what the filter does."""
        return ()

    def find(self, text: str) -> Drop | None:
        """Why a text is left out, or None."""
        raise NotImplementedError

    def judge(self, record: Record) -> Verdict:
        """A record is left out when one of its texts is."""
        for text in record.texts:
            if found := self.find(text):
                return Verdict(record, found.reason, excerpt(text, found.at))
        return Verdict(record)


def rule_of(kind: type[R], options: Mapping[str, Any], where: str) -> R:
    """A filter from its options, each checked.

    Args:
        options: as typed, without `name`.
        where: the setting, for messages: data.filters[2].

    Raises:
        DataError: an unknown option, a wrong type, or a value outside its range.
    """
    known = {f.name: f for f in dataclasses.fields(kind)}
    hints = get_type_hints(kind)
    for_example = f"; for example {kind.example}"
    values = {}
    for name, value in options.items():
        setting = f"{where}.{name}"
        if name not in known:
            hint = did_you_mean(name, known) or for_example
            there = ", ".join(known) or "none"
            raise DataError(f"{setting}={value} is not an option; there are: {there}{hint}")
        if not _fits(value, hints[name]):
            wanted = _describe(hints[name])
            raise DataError(f"{setting}={value!r} must be {wanted}{for_example}")
        metadata = known[name].metadata
        if metadata and value is not None:
            _check_range(setting, value, metadata, for_example)
        values[name] = float(value) if _is_number(value) and float in _parts(hints[name]) else value
    rule = kind(**values)
    rule.check(where)
    return rule


def existing_file(setting: str, path: str) -> Path:
    """The file an option names.

    Raises:
        DataError: there is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        near = [p.name for p in file.parent.iterdir()] if file.parent.is_dir() else []
        hint = did_you_mean(file.name, near) or f"; paths are relative to {Path.cwd()}"
        raise DataError(f"{setting}={path}: there is no such file{hint}")
    return file


def _parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a single type is its own part."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has a declared type; a whole number also is a number, true is neither."""
    for part in _parts(hint):
        if get_origin(part) is list:
            inner = get_args(part)[0]
            if isinstance(value, list) and all(_fits(item, inner) for item in value):
                return True
        elif part is float:
            if _is_number(value) and math.isfinite(value):
                return True
        elif isinstance(value, part) and isinstance(value, bool) == (part is bool):
            return True
    return False


def _describe(hint: Any) -> str:
    names = ["a list of text" if get_origin(p) is list else _KINDS[p] for p in _parts(hint)]
    return " or ".join(names)


def _check_range(setting: str, value: Any, metadata: Mapping[str, Any], for_example: str) -> None:
    choices, low, high = metadata["choices"], metadata["low"], metadata["high"]
    for item in value if isinstance(value, list) else [value]:
        if choices and item not in choices:
            hint = did_you_mean(str(item), choices) or for_example
            raise DataError(f"{setting}={item} is not one of {', '.join(choices)}{hint}")
        if (low is not None and item < low) or (high is not None and item > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise DataError(f"{setting}={item} must be {bounds}{for_example}")
