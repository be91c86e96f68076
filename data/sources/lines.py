"""Sources of plain characters: text files, JSON lines and csv, each also compressed.

Readers give (place, row) pairs one by one and never hold a file, except text files, which are
documents themselves.
"""

import csv
import json
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from data.contract import kind_of
from data.files import DamagedData, DataError, decode_utf8
from data.sources import inputs
from data.sources.compressed import is_compressed, open_bytes
from data.sources.inputs import InputFile, InputUnit, group, name_of, path_of

LONGEST_LINE = 2**28  # bytes; a longer one is no line but another kind of file
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
    for magic, suffix in ((b"\x1f\x8b", ".gz"), (b"\x28\xb5\x2f\xfd", ".zst")):
        if offset == 0 and raw.startswith(magic):
            raise DataError(f"is compressed, but its name does not say so; add {suffix} to it")
    return decode_utf8(raw, offset)


def read_text(unit: InputUnit, column: str, longest: int | None) -> Iterator[Placed]:
    """Text files; one of up to `longest` characters is one document, a longer one is cut.

    A place is the line in which the document begins.
    """
    for file in unit.files:
        name = name_of(file)
        with open_bytes(path_of(file), name) as opened:
            raw = opened.read()
        start = _character(raw, unit.start)
        stop = len(raw) if unit.stop is None else _character(raw, unit.stop)
        try:
            text = decode(raw[start:stop], start)
        except DataError as error:
            raise DataError(f"{name} {error}") from None
        line = 1 + raw.count(b"\n", 0, start)
        for piece in pieces(text, longest):
            yield f"{name}:{line}", {column: piece}
            line += piece.count("\n")


def _character(raw: bytes, place: int) -> int:
    """Where the first character begins from a byte of a UTF-8 text on."""
    while place < len(raw) and raw[place] & 0xC0 == 0x80:
        place += 1
    return place


def pieces(text: str, longest: int | None) -> Iterator[str]:
    """Cut a text in pieces of at most so many characters that join to the text again.

    None: it stays whole.

    Cuts at the last blank line of the piece, else the last line end, else the last space, else
    in the middle of a word.
    """
    start = 0
    while longest is not None and len(text) - start > longest:
        end = start + longest
        for mark in ("\n\n", "\n", " "):
            if (cut := text.rfind(mark, start + 1, end)) > start:
                end = cut + len(mark)
                break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


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
                    f"{exact_place(unit, place)}: this line is longer than {LONGEST_LINE:,} bytes; "
                    "is it JSON lines (one object in each line)?"
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


def parse_json(row: tuple[bytes, int]) -> dict[str, Any]:
    """A line as an object.

    Raises:
        DataError: it is not UTF-8, not JSON, or not an object.
    """
    line, offset = row
    text = decode(line, offset)
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"not a JSON object: {error}; repair or remove this line, or set data.source to what "
            "the file is"
        ) from None
    if not isinstance(record, dict):
        raise DataError(f"a JSON {kind_of(record)}, not an object")
    return record


def read_csv(unit: InputUnit) -> Iterator[Placed]:
    """A csv file with a header; fields with commas, quotes or line ends stand in "quotes".

    A place is the row, counted without the header. All values are text.
    """
    [file] = unit.files
    name = name_of(file)
    csv.field_size_limit(LONGEST_LINE)
    number = 0  # of the row that is being read; 0: the header
    with open_bytes(path_of(file), name) as opened:
        rows = csv.reader(_decoded_lines(opened), strict=True)
        try:
            header = _header(next(rows, []))
            number = 1
            for values in rows:
                if not values:  # a blank line
                    continue
                if len(values) != len(header):
                    raise DataError(
                        f"line {rows.line_num} ends a row of {len(values)} fields, but the header "
                        f"has {len(header)} ({', '.join(header)}); quote fields that hold commas "
                        "or line ends"
                    )
                yield f"{name}: row {number}", dict(zip(header, values, strict=True))
                number += 1
        except DamagedData:
            raise
        except (csv.Error, DataError) as error:
            row = f"row {number}" if number else "header"
            line = f" (line {rows.line_num})" if isinstance(error, csv.Error) else ""
            raise DataError(f"{name}: {row}: {error}{line}") from None


def _decoded_lines(opened: BinaryIO) -> Iterator[str]:
    """Lines of at most LONGEST_LINE; decoded one by one, so that an error is of its own row."""
    offset = 0
    while line := opened.readline(LONGEST_LINE):
        yield decode(line, offset)
        offset += len(line)


def _header(names: list[str]) -> list[str]:
    """The names of the columns, if each has one of its own."""
    if not names:
        raise DataError("the file is empty; its first line must name the columns")
    twice = [name for name in names if names.count(name) > 1]
    if twice or not all(names):
        raise DataError(
            f"names of columns must be there and differ, but are: {', '.join(map(repr, names))}"
        )
    return names
