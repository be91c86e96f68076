"""Sources of plain characters: text files and JSON lines, each also compressed.

Readers give (place, row) pairs one by one and never hold a file, however large it is or unpacks to.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from data.contract import kind_of
from data.files import DataError, decode_utf8, parse_json
from data.messages import shown
from data.sources import inputs
from data.sources.compressed import open_bytes
from data.sources.inputs import InputFile, InputUnit, group, name_of, path_of
from data.sources.recognise import HEAD, is_compressed, misfit, packing

LONGEST_LINE = 2**25
"""Bytes of a record; longer ones are refused. As JSON, a record may take 25 times its bytes."""
CHUNK = 2**20  # bytes of a text file that are read at once
BOM = b"\xef\xbb\xbf"
Placed = tuple[str, Any]  # (place, row): file and row for messages, and what stands there


def text_units(files: list[InputFile]) -> list[InputUnit]:
    """Small files are read together, up to about UNIT_BYTES."""
    cuts = group([file.size or 0 for file in files], inputs.UNIT_BYTES)
    return [InputUnit(tuple(file.name for file in files[a:b])) for a, b in cuts]


def jsonl_units(files: list[InputFile]) -> list[InputUnit]:
    """Ranges of about UNIT_BYTES; no file is read for it.

    A compressed file is one unit, as is one of unknown size or version (it would be fetched anew
    for each unit).
    """
    units: list[InputUnit] = []
    for file in files:
        whole = is_compressed(file.name) or file.size is None or file.version is None
        size = 0 if whole or file.size is None else file.size
        for start in range(0, max(size, 1), inputs.UNIT_BYTES):
            stop = start + inputs.UNIT_BYTES
            units.append(InputUnit((file.name,), start, stop if stop < size else None))
    return units


def decode(raw: bytes, offset: int = 0) -> str:
    """Bytes of a file as text, as `decode_utf8`; at its start they must not be compressed."""
    if offset == 0 and (packed := packing(raw)):
        raise DataError(f"is {packed[0]}, but its name does not say so; add {packed[1]} to it")
    return decode_utf8(raw, offset)


def read_text(unit: InputUnit, column: str, longest: int | None) -> Iterator[Placed]:
    """Text files; one of up to `longest` characters is one document, a longer one is cut.

    A place is the line in which the document begins.
    """
    for file in unit.files:
        name = name_of(file)
        with open_bytes(path_of(file), name) as opened:
            line = 1 + _line_ends(opened, unit.start)
            parts = _characters(opened, unit, path_of(file), name)
            for piece in pieces(parts, min(longest or LONGEST_LINE, LONGEST_LINE)):
                yield f"{name}:{line}", {column: piece}
                line += piece.count("\n")


def _line_ends(opened: BinaryIO, stop: int) -> int:
    """How many line ends stand before a byte, to which the file is read."""
    found = 0
    while stop > 0 and (raw := opened.read(min(stop, CHUNK))):
        found += raw.count(b"\n")
        stop -= len(raw)
    return found


def _characters(opened: BinaryIO, unit: InputUnit, path: Path, name: str) -> Iterator[str]:
    """The text of a unit's part of a file, which stands at its start, in parts of about CHUNK."""
    offset, rest = unit.start, b""
    for number, raw in enumerate(_bytes(opened, unit)):
        try:
            if not number and not unit.start and (said := misfit(raw[:HEAD], path, "text")):
                raise DataError(said)
            if not number and unit.start:
                offset += _continued(raw)
                raw = raw[_continued(raw) :]
            raw = rest + raw
            whole = len(raw) - _begun(raw)
            yield decode(raw[:whole], offset)
        except DataError as error:
            raise DataError(f"{name} {error}") from None
        offset, rest = offset + whole, raw[whole:]
    if rest:
        raise DataError(f"{name} ends in the middle of a character, at offset {offset}")


def _bytes(opened: BinaryIO, unit: InputUnit) -> Iterator[bytes]:
    """The bytes of the unit, and those that finish a character that begins in it."""
    at = unit.start
    while unit.stop is None or at < unit.stop:
        raw = opened.read(CHUNK if unit.stop is None else min(CHUNK, unit.stop - at))
        if not raw:
            return
        at += len(raw)
        yield raw
    after = opened.read(3)
    yield after[: _continued(after)]


def _continued(raw: bytes) -> int:
    """How many bytes at the start go on with a character of UTF-8 that begins before."""
    return next((n for n, byte in enumerate(raw) if byte & 0xC0 != 0x80), len(raw))


def _begun(raw: bytes) -> int:
    """How many bytes at the end begin a character of UTF-8 and do not finish it."""
    for count in range(1, min(4, len(raw) + 1)):
        first = raw[-count]
        if first >= 0xC0:
            length = 2 + (first >= 0xE0) + (first >= 0xF0)
            return count if length > count else 0
        if first < 0x80:
            return 0
    return 0


def pieces(parts: Iterable[str], longest: int) -> Iterator[str]:
    """Cut a text, which comes in parts, in pieces of at most so many characters that join to it.

    Cuts at the last blank line of the piece, else the last line end, else the last space, else
    in the middle of a word.
    """
    text = ""
    for part in parts:
        text += part
        start = 0
        while len(text) - start > longest:
            end = start + longest
            for mark in ("\n\n", "\n", " "):
                if (cut := text.rfind(mark, start + 1, end)) > start:
                    end = cut + len(mark)
                    break
            yield text[start:end]
            start = end
        text = text[start:]
    if text:
        yield text


def read_jsonl(unit: InputUnit) -> Iterator[Placed]:
    """One JSON object per line; blank lines are allowed. Rows are bytes: parse_json reads them.

    A place is the line, or where the unit begins deep in its file the byte at which the line
    begins: nobody has counted the lines before. exact_place does.
    """
    [file] = unit.files
    name = name_of(file)
    with open_bytes(path_of(file), name) as opened:
        offset = _to_line_start(opened, unit.start)
        number = 0
        while unit.stop is None or offset < unit.stop:
            line = opened.readline(LONGEST_LINE)
            if not line:
                return
            number += 1
            place = f"{name}: byte {offset}" if unit.start else f"{name}:{number}"
            if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
                raise DataError(
                    f"{exact_place(unit, place)}: this line is longer than {LONGEST_LINE:,} bytes, "
                    "the most that are read; is it JSON lines (one object in each line)?"
                )
            if not line.isspace():
                yield place, (line, offset)
            offset += len(line)


def _to_line_start(opened: BinaryIO, start: int) -> int:
    """Go to the first line that begins at or after a byte; returns where it begins."""
    if start == 0:
        return 0
    opened.seek(start - 1)  # if a line ends there, the next one is ours
    offset = start - 1
    while part := opened.readline(2**20):
        offset += len(part)
        if part.endswith(b"\n"):
            break
    return offset


def exact_place(unit: InputUnit, place: str) -> str:
    """The place with the number of its line where it has that of a byte; reads the file for it."""
    found = re.fullmatch(r"(.*): byte (\d+)", place)
    if found is None or len(unit.files) != 1:
        return place
    left, lines = int(found[2]), 1
    with open_bytes(path_of(unit.files[0]), found[1]) as opened:
        while left > 0 and (chunk := opened.read(min(left, 2**20))):
            lines += chunk.count(b"\n")
            left -= len(chunk)
    return f"{found[1]}:{lines}"


def place_of_line(place: str) -> str | None:
    """Of "FILE:LINE" the place that its record has deep in a file, "FILE: byte N".

    None unless the file is a local one that has such a line.
    """
    found = re.fullmatch(r"(.*):(\d+)", place)
    if found is None or not (path := Path(found[1])).is_file():
        return None
    with open_bytes(path, found[1]) as opened:
        offset = sum(len(line) for line in islice(opened, int(found[2]) - 1))
    return f"{found[1]}: byte {offset}"


class _Doubled(dict[str, Any]):
    """An object that has a key twice; of the values the last one."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else _Doubled(made)


_decoder = json.JSONDecoder(object_pairs_hook=_object)


def _loads(text: str) -> Any:
    """As `json.loads`; of a line that is a value and its end, as nearly all are, faster."""
    try:
        value, end = _decoder.raw_decode(text)
    except json.JSONDecodeError:  # it may begin with a space
        return _decoder.decode(text)
    return value if text[end:] in ("", "\n") else _decoder.decode(text)


def parse_line(row: tuple[bytes, int]) -> dict[str, Any]:
    """A line as an object; a byte order mark before it, as of joined files, is passed over.

    Raises:
        DataError: it is not UTF-8, not JSON, not an object, or an object with a key twice.
    """
    line, offset = row
    mark = len(BOM) if line.startswith(BOM) else 0
    text = decode(line[mark:], offset + mark)
    try:
        record = parse_json(text, _loads)
    except DataError as error:
        raise DataError(
            f"{error}; repair or remove this line, or set data.source to what the file is"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"is a JSON {kind_of(record)}, {shown(record)}, not an object")
    if isinstance(record, _Doubled):
        raise DataError(
            f"has a key twice ({shown(text)}), and readers differ in which one they take; keep one"
        )
    return record
