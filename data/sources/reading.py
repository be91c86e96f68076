"""Where records come from: a table of sources, each cut into units that are read one by one.

    units_of(config)             the same list on every machine; no text is read for it
    tail_of(config, fraction)    the same in two lists, of which the second has the last bytes
    read_records(config, unit)   the records of one of them, checked against the contract
    outside_state(config)        how the sources look from outside, to see whether they changed

`columns` are those that somebody behind the source reads, as some filters do; they are kept in
each record, beside those that the contract names.

Nothing is repaired on the way: text that can't be read is an error that names the file, the row and
the remedy. What a document is in each source stands in the source's reader.
"""

import itertools
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from data import contract
from data.addresses import is_url
from data.config import SourceConfig
from data.files import DataError, sha256_file
from data.records import Record, builder, columns_read
from data.sources import csv_files, hub, lines, tables
from data.sources.compressed import head_of
from data.sources.inputs import (
    InputFile,
    InputUnit,
    clipped,
    files_of,
    listing_of,
    name_of,
    path_of,
)
from data.sources.lines import Placed
from data.sources.python_docs import BUILDER_VERSION, python_docs
from data.sources.recognise import is_compressed, misfit

SCHEMA_ROWS = 100  # of a file without a schema that tell which columns it has
# Characters of a text that are tokenized at once; a longer one is cut into several documents. The
# tokens of so many take some 200 MB.
LONGEST_DOCUMENT = 2**20


def units_of(config: SourceConfig, columns: Sequence[str] = ()) -> list[InputUnit]:
    """The units of a dataset, about UNIT_BYTES of input each, in the order of its records.

    Raises:
        DataError: there is nothing at the path, or the metadata of a file is damaged.
    """
    if config.source == "python_docs":
        return [InputUnit(())]
    if config.source == "hf":
        return hub.hub_units(config)
    files = files_of(config)
    if config.source == "text":
        return lines.text_units(files)
    if config.source == "jsonl":
        return lines.jsonl_units(files)
    if config.source == "csv":  # a line end may stand inside quotes: only reading tells
        return [InputUnit((file.name,)) for file in files]
    _check_columns(config, _named(config, columns), files)
    return tables.table_units(files)


def tail_of(config: SourceConfig, fraction: float) -> tuple[list[InputUnit], list[InputUnit]]:
    """The units of a dataset of text or jsonl, cut in two where so much of its bytes is left.

    Raises:
        DataError: there is nothing at the path, or a file whose bytes can't be counted.
    """
    files = files_of(config)
    units = lines.text_units if config.source == "text" else lines.jsonl_units
    for file in files:
        if file.size is None or is_compressed(file.name):
            raise DataError(
                f"{name_of(file.name)}: data.validation.take=tail counts bytes, and those of this "
                "file are not known before it is unpacked; unpack it, or name documents to "
                "validate on: data.validation.path=FILES"
            )
    left = int(sum(file.size or 0 for file in files) * (1 - fraction))
    for number, file in enumerate(files):
        size = file.size or 0
        if left < size:
            head = [*units(files[:number]), *(clipped(own, 0, left) for own in units([file]))]
            rest = [clipped(own, left, size) for own in units([file])]
            tail = [*rest, *units(files[number + 1 :])]
            return list(filter(None, head)), list(filter(None, tail))
        left -= size
    return units(files), []


def read_records(
    config: SourceConfig, unit: InputUnit, columns: Sequence[str] = ()
) -> Iterator[Record]:
    """The records of a unit, as they are: repeats and empty texts too.

    Raises:
        DataError: a file is missing, damaged, binary or not UTF-8, or a record breaks the contract.
    """
    yield from checked(config, unit, _rows(config, unit, _named(config, columns)), columns)


def checked(
    config: SourceConfig, unit: InputUnit, rows: Iterator[Placed], columns: Sequence[str] = ()
) -> Iterator[Record]:
    """Rows of a unit as records; raises as `read_records`."""
    try:
        with _recognised(config, unit):
            yield from _records(config, unit, rows, _named(config, columns))
    except contract.ColumnError as error:
        raise DataError(f"{error}{_compared(config, unit)}") from None


def passed_over(config: SourceConfig) -> tuple[tuple[str, str], ...]:
    """Path and reason of each file or folder that data.path reaches and that is not read."""
    return () if config.source in ("python_docs", "hf") else listing_of(config).passed_over


def outside_state(config: SourceConfig) -> list[Any]:
    """What changes whenever the sources may have changed; JSON-able; no text is read for it.

    Only where a server says nothing of a file's version, the file is fetched and its hash taken.
    """
    if config.source == "python_docs":
        return [sys.version, sysconfig.get_paths()["stdlib"], BUILDER_VERSION]
    if config.source == "hf":
        return hub.hub_state(config)
    return [[name_of(file.name), file.version or _content(file.name)] for file in files_of(config)]


def is_local(config: SourceConfig) -> bool:
    """Whether its records, and those it is validated on, can be had without a network."""
    if config.source == "hf" or is_url(str(config.path).removeprefix("file://")):
        return False
    own = config.validation_source()
    return own is None or is_local(own)


def schema_changes(config: SourceConfig) -> list[str]:
    """A line for each later file of this machine whose columns are not those of the first file.

    Columns that are read must be there, or reading fails; others may come and go, and the user is
    told. Of jsonl the first SCHEMA_ROWS rows count.
    """
    if config.source not in ("jsonl", "csv", "parquet"):
        return []
    names = [file.name for file in files_of(config) if not is_url(file.name)]
    schemas = {name: _schema(config, name) for name in names}
    return [
        f"{name}: {', '.join(changed)}, compared with {names[0]}"
        for name in names[1:]
        if (changed := contract.column_changes(schemas[names[0]], schemas[name]))
    ]


def _records(
    config: SourceConfig, unit: InputUnit, rows: Iterator[Placed], named: Sequence[str]
) -> Iterator[Record]:
    rules = contract.Contract(config.contract, as_text=config.source == "csv")
    build = builder(config)
    for place, raw in rows:
        try:
            row = rules.check(_parsed(raw))
            texts, spans, columns = build(row)
            rules.check_texts(texts, columns)
            values = {name: _value(row, name) for name in named}
            cut = _cut(texts, columns, is_text=config.records == "text")
        except DataError as error:
            raise type(error)(f"{lines.exact_place(unit, place)}: {error}") from None
        for part, own in enumerate(cut):
            yield Record(own, place, spans, values, part)


def _cut(
    texts: tuple[str, ...], columns: tuple[str, ...], *, is_text: bool
) -> Iterable[tuple[str, ...]]:
    """The texts of the documents that the texts of a record become: one, but of long texts."""
    if max(map(len, texts)) <= LONGEST_DOCUMENT:
        return [texts]
    if is_text:
        return ((piece,) for piece in lines.pieces(texts, LONGEST_DOCUMENT))
    text, column = max(zip(texts, columns, strict=True), key=lambda own: len(own[0]))
    raise DataError(
        f"{column} has {len(text):,} characters, and a conversation, which can't be cut, may have "
        f"{LONGEST_DOCUMENT:,}; drop or shorten it"
    )


@contextmanager
def _recognised(config: SourceConfig, unit: InputUnit) -> Iterator[None]:
    """Let an error say what a file is where it plainly is not what its source reads."""
    try:
        yield
    except DataError:
        if config.source in ("jsonl", "csv"):
            path, name = path_of(unit.files[0]), name_of(unit.files[0])
            if said := misfit(head_of(path, name), path, config.source):
                raise DataError(f"{name} {said}") from None
        raise


def _parsed(row: Any) -> dict[str, Any]:
    """A row as an object; lines of jsonl are parsed here, so that their errors get a place."""
    if isinstance(row, tuple):
        return lines.parse_line(row)
    plain: dict[str, Any] = row
    return plain


def _value(row: Any, name: str) -> Any:
    if name not in row:
        raise contract.no_column("data.filters", name, row)
    contract.check_size(name, row[name])
    return row[name]


def _named(config: SourceConfig, columns: Sequence[str]) -> tuple[str, ...]:
    """The columns that the contract or a filter names."""
    rules = config.contract
    return tuple(dict.fromkeys([*rules.columns, *rules.not_null, *columns]))


def _chosen(config: SourceConfig, named: Sequence[str] | None, names: list[str]) -> list[str]:
    """Of the columns of a file those that are needed: of the record and the named ones, or all."""
    if named is None:
        return names
    for name in named:
        if name not in names:
            in_contract = name in config.contract.columns or name in config.contract.not_null
            raise contract.no_column(
                "data.contract" if in_contract else "data.filters", name, names
            )
    wanted = list(dict.fromkeys([*columns_read(config, names), *named]))
    for name in wanted:
        if (count := names.count(name)) > 1:
            raise contract.ColumnError(
                f"several columns ({count}) are named {name}, and which is meant does not show; "
                "rename or drop all but one"
            )
    return wanted


def _rows(config: SourceConfig, unit: InputUnit, named: Sequence[str] | None) -> Iterator[Placed]:
    """The rows of a unit; of tables only the columns that are needed."""
    chosen = partial(_chosen, config, named)
    if config.source == "python_docs":
        texts = enumerate(python_docs(), start=1)
        return ((f"python_docs: row {n}", {config.text_column: text}) for n, text in texts)
    if config.source == "text":
        return lines.read_text(unit, config.text_column, config.document_characters)
    if config.source == "jsonl":
        return lines.read_jsonl(unit)
    if config.source == "csv":
        return csv_files.read_csv(unit, chosen)
    if config.source == "parquet":
        return tables.read_table(unit, chosen)
    return hub.read_hub(config, unit, chosen)


def _check_columns(config: SourceConfig, named: Sequence[str], files: list[InputFile]) -> None:
    """Find a column that is missing in any file now, not when its turn comes."""
    for file in files:
        if not is_url(file.name):
            try:
                _chosen(config, named, list(_schema(config, file.name)))
            except contract.ColumnError as error:
                where = f"{file.name}: {error}"
                raise DataError(where + _compared(config, InputUnit((file.name,)))) from None


def _schema(config: SourceConfig, file: str) -> dict[str, str]:
    """The columns of a file and their types; of jsonl those of its first rows."""
    if config.source == "parquet":
        return tables.schema_of(path_of(file), name_of(file))
    unit = InputUnit((file,))
    with _recognised(config, unit):
        return contract.column_types(_first_rows(config, unit))


def _first_rows(config: SourceConfig, unit: InputUnit) -> Iterator[dict[str, Any]]:
    for place, row in itertools.islice(_rows(config, unit, None), SCHEMA_ROWS):
        try:
            yield _parsed(row)
        except DataError as error:
            raise DataError(f"{place}: {error}") from None


def _compared(config: SourceConfig, unit: InputUnit) -> str:
    """The end of an error message: how the columns of this file differ from the first file's."""
    if config.source not in ("jsonl", "csv", "parquet"):
        return ""
    first, file = files_of(config)[0].name, unit.files[0]
    with suppress(DataError):  # the first error is the one to tell of
        changed = contract.column_changes(_schema(config, first), _schema(config, file))
        if changed and file != first:
            return f"; compared with {name_of(first)}: {', '.join(changed)}"
    return ""


def _content(file: str) -> str:
    return sha256_file(path_of(file))
