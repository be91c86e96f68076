"""Tables as csv, with a header; also compressed."""

import csv
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data.contract import ColumnError
from data.files import DamagedData, DataError
from data.messages import cut, listed
from data.sources import lines
from data.sources.compressed import open_bytes
from data.sources.inputs import InputUnit, name_of, path_of
from data.sources.lines import BOM, Placed
from data.sources.recognise import mend
from data.sources.tables import Chosen

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
CONVERT = "import csv,sys; csv.writer(sys.stdout).writerows(csv.reader(sys.stdin, delimiter={!r}))"
OF_SPARK = (
    'quotes inside fields are written \\", as Spark does, and are read here as ""; write them so: '
    '.option("escape", "\\"")'
)


def read_csv(unit: InputUnit, columns: Chosen) -> Iterator[Placed]:
    """A csv file with a header; fields with commas, quotes or line ends stand in "quotes".

    A place is the row, counted without the header. All values are text.

    Args:
        unit: one file.
        columns: function from the names in the file to those that are read; it raises ColumnError.
    """
    [file] = unit.files
    name, path = name_of(file), path_of(file)
    csv.field_size_limit(lines.LONGEST_LINE)
    number = 0  # of the row that is being read; 0: the header
    with open_bytes(path, name) as opened:
        source = _Lines(opened)
        rows = csv.reader(source, strict=True)
        try:
            header = _header(next(rows, []), path)
            columns(header)
            number = 1
            source.begin_row()
            for values in rows:
                if values and len(values) != len(header):
                    raise DataError(
                        f"line {rows.line_num} ends a row of {len(values)} fields, but the header "
                        f"has {len(header)} ({listed(header)}); quote fields that hold commas "
                        "or line ends"
                    )
                if values:  # else a blank line
                    yield f"{name}: row {number}", dict(zip(header, values, strict=True))
                    number += 1
                source.begin_row()
        except DamagedData:
            raise
        except ColumnError as error:
            raise ColumnError(
                f"{name}: header: {error}; the first line names the columns: if it is a record, "
                "put a line of names before it"
            ) from None
        except (csv.Error, DataError) as error:
            row = f"row {number}" if number else "header"
            said = f"{error} (line {rows.line_num})" if isinstance(error, csv.Error) else str(error)
            raise DataError(f"{name}: {row}: {OF_SPARK if source.of_spark else said}") from None


class _Lines:
    """Lines of a file, decoded one by one, so that an error is of its own row.

    Attributes:
        of_spark: whether a quote after a backslash was in the row.
    """

    def __init__(self, opened: BinaryIO) -> None:
        self._opened = opened
        self._offset = self._size = 0  # in the file, of the row
        self.of_spark = False

    def begin_row(self) -> None:
        """The lines from here on are of another row."""
        self._size, self.of_spark = 0, False

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._opened.readline(lines.LONGEST_LINE)
        if not line:
            raise StopIteration
        if self._size + len(line) >= lines.LONGEST_LINE:
            raise DataError(
                f"is longer than {lines.LONGEST_LINE:,} bytes, the most that are read; is a quote "
                "left open?"
            )
        if self._offset and not self._size and line.startswith(BOM):
            raise DataError(
                "begins with a byte order mark: files were joined here, and the header of a later "
                "one became a row; give them as a folder or pattern instead of joining them"
            )
        text = lines.decode(line, self._offset)
        self._offset += len(line)
        self._size += len(line)
        self.of_spark = self.of_spark or b'\\"' in line
        return text


def _header(names: list[str], path: Path) -> list[str]:
    """The names of the columns; one without a name, as pandas writes its index, gets a number."""
    if not names:
        raise DataError("the file is empty; its first line must name the columns")
    if len(names) == 1:
        for separator, called in SEPARATORS.items():
            parts = names[0].split(separator)
            if len(parts) > 1 and all(map(str.strip, parts)):
                command = mend(f"python -c {shlex.quote(CONVERT.format(separator))}", path)
                raise DataError(
                    f"its fields seem to be separated by {called} ({cut(names[0])}), and are read "
                    f"here by commas; convert it: {command}"
                )
    return [name or f"column {number}" for number, name in enumerate(names, start=1)]
