"""What messages have in common: names and values cut short, near matches, paths, sizes, times."""

import difflib
import re
import shlex
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from data.files import DataError

SHOWN = 40  # characters of a value in a message
NAMED = 8  # names in a message
LONGEST_NAME = 100  # characters of a name that may be meant by another: comparing is quadratic


def cut(text: str, most: int = SHOWN) -> str:
    """A name for a message: on one line, at most so many characters, all of them printable."""
    short = text[:most] + ("..." if len(text) > most else "")
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in short)


def shown(value: Any) -> str:
    """A value for a message: a text in quotes, cut short; of a large object its kind alone."""
    if isinstance(value, str):
        return repr(value[:SHOWN] + ("..." if len(value) > SHOWN else ""))
    if isinstance(value, int) and value.bit_length() > 128:
        return f"a number of {value.bit_length():,} bits"
    if isinstance(value, bytes):
        return cut(repr(value[:SHOWN]))
    if isinstance(value, list):
        inside = ", ".join(map(_inside, value[:3])) + (", ..." if len(value) > 3 else "")
        return cut(f"[{inside}]")
    if isinstance(value, dict):
        inside = ", ".join(f"{k!r:.40}: {_inside(v)}" for k, v in islice(value.items(), 3))
        return cut(f"{{{inside}{', ...' if len(value) > 3 else ''}}}")
    return cut(repr(value))


def _inside(value: Any) -> str:
    """A value inside another: no deeper, or a nested one could fill the memory."""
    if isinstance(value, list | dict):
        return ("[...]" if isinstance(value, list) else "{...}") if value else str(value)
    return shown(value)


def listed(names: Iterable[Any]) -> str:
    """Names for a message: each cut short, the first NAMED, and how many more; "none"."""
    names = list(names)
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return (", ".join(cut(str(name)) for name in names[:NAMED]) + more) or "none"


def override(setting: str, value: str) -> str:
    """What to type in a shell to give a setting a text, whatever characters it holds."""
    if re.fullmatch(r"[\w./:@%+-]+", value, re.ASCII):
        return f"{setting}={value}"
    inner = re.sub(r'(\\*)("|$)', lambda m: m[1] * 2 + (m[2] and '\\"'), value)
    return shlex.quote(f'{setting}="{inner}"')


class Passing(str):
    """A line on what is being done, which the next line ends: a terminal shows it with a clock."""

    __slots__ = ()


def nearest(word: str, known: Iterable[str], least: float = 0.5) -> str | None:
    """The known word that looks most like this one, but is another; None when none is near.

    `least` is how much of the two must agree, from 0 to 1 (difflib's ratio).
    """
    short = [one for one in known if one != word and len(one) <= LONGEST_NAME]
    if len(word) > LONGEST_NAME:
        return None
    return next(iter(difflib.get_close_matches(word, short, n=1, cutoff=least)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known word, "" when none is near."""
    near = nearest(word, known)
    return f"; did you mean {cut(near, LONGEST_NAME)}?" if near else ""


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Raise DataError unless `value` is one of `choices`; the message offers the nearest."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise DataError(f"{setting}={cut(str(value))} is not one of {', '.join(choices)}{hint}")


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
