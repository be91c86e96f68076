"""A look at a few places of a dataset, which tells about how much there is without reading it.

The places stand evenly over the bytes of the files, so they are a fair sample of an order by time
or by topic, too. About SAMPLE_BYTES are read, and of tables the metadata.
"""

from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt

from data.config import SourceConfig
from data.files import DataError
from data.records import Record
from data.sources import csv_files, lines, tables
from data.sources.compressed import growth, open_bytes
from data.sources.inputs import InputFile, InputUnit, files_of, path_of
from data.sources.lines import Placed
from data.sources.reading import checked, is_local, read_records, units_of
from data.sources.recognise import is_compressed

SAMPLE_BYTES = 2**20
PLACES = 8  # of large files
PLACE_BYTES = SAMPLE_BYTES // PLACES
MOST_PLACES = 256  # of small ones
GOLDEN = (sqrt(5) - 1) / 2  # its multiples, modulo 1, spread any number of points evenly


@dataclass(frozen=True)
class Sample:
    """Some records of a dataset, before any filter."""

    records: list[Record]
    scale: float
    """How many times as much the whole dataset is; 1: these are all records."""

    @property
    def text_bytes(self) -> int:
        """UTF-8 bytes of the texts."""
        return sum(len(text.encode("utf-8")) for own in self.records for text in own.texts)


def sample_of(config: SourceConfig, columns: Sequence[str] = ()) -> Sample | None:
    """Some records of a dataset; None for one that is not on this machine: nothing is fetched.

    Args:
        config: of the dataset.
        columns: that filters read.

    Raises:
        DataError: as `read_records`, where something is wrong with what was looked at.
    """
    if not is_local(config):
        return None
    if config.source == "python_docs":  # less than a sample
        [unit] = units_of(config)
        return Sample(list(read_records(config, unit, columns)), 1.0)
    if config.source == "parquet":
        return _of_tables(config, columns)
    return _of_files(config, columns)


def _of_files(config: SourceConfig, columns: Sequence[str]) -> Sample:
    """Records at places of files of characters."""
    files = files_of(config)
    places = _places(files)
    most = max(PLACE_BYTES, SAMPLE_BYTES // len(places))
    records: list[Record] = []
    looked, grown = 0.0, []
    for file, start in places:
        size = float(file.size or 0) - start
        if is_compressed(file.name):
            grown.append(growth(path_of(file.name), file.name, most))
            size *= grown[-1]
        rows, read = _rows(config, file, start, PLACE_BYTES if start else most)
        records += checked(config, InputUnit((file.name,), start), iter(rows), columns)
        looked += min(read, size)
    mean = sum(grown) / len(grown) if grown else 1.0
    whole = sum((file.size or 0) * (mean if is_compressed(file.name) else 1.0) for file in files)
    return Sample(records, max(1.0, whole / looked) if looked else 1.0)


def _places(files: Sequence[InputFile]) -> list[tuple[InputFile, int]]:
    """Files, and bytes in them to begin at: all of them if they are small."""
    sizes = [file.size or 0 for file in files]
    if sum(sizes) <= SAMPLE_BYTES:
        return [(file, start) for file in files for start in _starts(file)]
    found: dict[tuple[str, int], tuple[InputFile, int]] = {}
    size = 0
    for which, inside in _spread(sizes, MOST_PLACES):
        file, starts = files[which], _starts(files[which])
        start = starts[inside // PLACE_BYTES if len(starts) > 1 else 0]
        if (file.name, start) not in found:
            found[file.name, start] = file, start
            size += min(sizes[which] - start, PLACE_BYTES)
        if size >= SAMPLE_BYTES:
            break
    return list(found.values())


def _spread(sizes: Sequence[int], count: int) -> Iterator[tuple[int, int]]:
    """Points that stand evenly over things of these sizes: number of the thing, place in it."""
    ends = list(accumulate(sizes))
    for number in range(count):
        at = int((0.5 + number * GOLDEN) % 1 * ends[-1])
        which = bisect(ends, at)
        yield which, at - ends[which] + sizes[which]


def _starts(file: InputFile) -> range:
    """Where in a file one may begin to read: anywhere among lines, else at its start."""
    in_lines = file.name.lower().endswith((".jsonl", ".ndjson"))
    return range(0, max(1, file.size or 0) if in_lines else 1, PLACE_BYTES)


def _rows(config: SourceConfig, file: InputFile, start: int, most: int) -> tuple[list[Placed], int]:
    """Rows at a place, and about how many bytes of the file they took."""
    if config.source == "text":
        return _beginning(config, file, most)
    if config.source == "jsonl":
        return list(lines.read_jsonl(InputUnit((file.name,), start, start + most))), most
    rows, read = [], 0
    for place, row in csv_files.read_csv(InputUnit((file.name,)), lambda names: names):
        rows.append((place, row))
        read += sum(len(value.encode("utf-8")) + 1 for value in row.values())
        if read >= most:
            break
    return rows, read


def _beginning(config: SourceConfig, file: InputFile, most: int) -> tuple[list[Placed], int]:
    """The beginning of a text file as one document, without a last half character."""
    with open_bytes(path_of(file.name), file.name) as opened:
        raw = opened.read(most)
    read = len(raw)
    if read == most:
        raw = raw[: max(i for i in range(read - 4, read) if raw[i] & 0xC0 != 0x80)]
    try:
        return [(f"{file.name}:1", {config.text_column: lines.decode(raw)})] if raw else [], read
    except DataError as error:
        raise DataError(f"{file.name} {error}") from None


def _of_tables(config: SourceConfig, columns: Sequence[str]) -> Sample:
    """Some rows of parts of tables, whose metadata says how large these are."""
    units_of(config, columns)  # every file must have the columns
    parts = [
        (InputUnit((file.name,), number, number + 1), *part)
        for file in files_of(config)
        for number, part in enumerate(tables.parts_of(file))
    ]
    sizes = [size for _, _, size in parts]
    records: list[Record] = []
    looked = 0.0
    for which in dict.fromkeys(which for which, _ in _spread(sizes, PLACES) if any(sizes)):
        unit, rows, size = parts[which]
        own = list(_some(read_records(config, unit, columns)))
        records += own
        looked += size * len(own) / max(1, rows)
    return Sample(records, max(1.0, sum(sizes) / looked) if looked else 1.0)


def _some(records: Iterator[Record]) -> Iterator[Record]:
    size = 0
    for record in records:
        yield record
        size += 1 + sum(map(len, record.texts))
        if size >= PLACE_BYTES:
            return
