"""What messages have in common: near matches, choices, and paths, sizes and times for readers."""

import difflib
from collections.abc import Collection, Iterable
from pathlib import Path

from data.files import DataError


class Passing(str):
    """A line on what is being done, which the next line ends: a terminal shows it with a clock."""

    __slots__ = ()


def nearest(word: str, known: Iterable[str], least: float = 0.5) -> str | None:
    """The known word that looks most like this one; None when none is near.

    `least` is how much of the two must agree, from 0 to 1 (difflib's ratio).
    """
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=least)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, "" when none is near."""
    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Raise DataError unless `value` is one of `choices`; the message offers the nearest."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise DataError(f"{setting}={value} is not one of {', '.join(choices)}{hint}")


def short(path: Path) -> str:
    """The path as a user would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def shortened(text: str, most: int = 1500) -> str:
    """The text in at most so many characters: its beginning, and its end, where the remedy is."""
    if len(text) <= most:
        return text
    left_out = f" [... {len(text) - most:,} more characters ...] "
    return text[: most * 2 // 3 - len(left_out)] + left_out + text[-(most // 3) :]


def size(count: float) -> str:
    """Bytes for a reader: 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def counted(count: int, what: str) -> str:
    """A number of things for a reader: 1 step, 2,000 steps."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def clock(seconds: float) -> str:
    """A time for a reader: 17:20, or 1:02:03 with hours."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
