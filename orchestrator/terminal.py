"""Lines on a terminal: as wide as it is, broken between words; elsewhere as they are.

A pipe or a file gets every line whole, for grep and for whoever copies a value.
"""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TextIO

# What is not broken: words, bytes with their unit, and what stands in quotes, to be copied.
QUOTED = r"(?:`[^`]*`|'[^']*'|\"[^\"]*\")"
WORDS = re.compile(rf"(\s*)((?:[\w.+-]*=)?{QUOTED}\S*|[\d.]+ [kMGT]?B\b\S*|\S+)")


def width_of(stream: TextIO) -> int | None:
    """Columns of the terminal behind a stream (COLUMNS, if that is set); None if it is none."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def fitted(text: str, width: int | None, hang: int = 2) -> str:
    """Text in lines of at most `width` columns, which begin at `hang` where one was broken.

    A word that is wider stays whole. None: the text as it is.
    """
    return "\n".join(_broken(line, width, hang, "") for line in text.split("\n"))


def fitted_parts(parts: Sequence[str], width: int | None) -> str:
    """Parts of several words two spaces apart, in lines that are broken between parts alone."""
    whole = "  ".join(part.replace(" ", "\0") for part in parts)
    return fitted(whole, width).replace("\0", " ")


def fitted_command(label: str, command: str, width: int | None) -> str:
    """A command behind its label; what does not fit goes on as a shell wants it, after a \\."""
    return _broken(f"{label}{command}", width, len(label), " \\")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells two spaces apart and as wide as the widest of their column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def say(text: str, stream: TextIO | None = None, hang: int = 2) -> None:
    """Print a line, fitted to where it goes (standard output)."""
    stream = stream or sys.stdout
    print(fitted(text, width_of(stream), hang), file=stream, flush=True)


def printable(line: str) -> str:
    """Without control characters, which a file from somebody else may hold."""
    return "".join(c if c.isprintable() else "?" for c in line)


def prepare_streams() -> None:
    """Let no character and no closed stream end a program: what can't be shown is replaced.

    Without a file behind descriptor 1 or 2, the next file that is opened would get our lines.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(_to_nowhere(number), "w", encoding="utf-8"))
        with suppress(AttributeError):  # of a stand-in
            getattr(sys, name).reconfigure(errors="replace")


def leave_reader() -> None:
    """Go on without anybody who reads; else the interpreter fails when it flushes at its end."""
    _to_nowhere(1)


def _to_nowhere(descriptor: int) -> int:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return descriptor


def _broken(text: str, width: int | None, hang: int, end: str) -> str:
    if width is None or len(text) <= width:
        return text
    hang = min(hang, width // 3)
    lines, line = [], ""
    for gap, word in WORDS.findall(text):
        room = width - len(end)
        if line.strip() and len(line) + len(gap) + len(word) > room:
            lines.append(line + end)
            line = " " * hang + word
        else:
            line += gap + word
    return "\n".join([*lines, line])
