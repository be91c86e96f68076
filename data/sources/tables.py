"""Parquet and Arrow files: cut at row groups and record batches, read some rows at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.addresses import is_url
from data.contract import ColumnError
from data.files import DataError
from data.sources import inputs
from data.sources.compressed import damaged, head_of
from data.sources.inputs import InputFile, InputUnit, group, name_of, path_of
from data.sources.lines import Placed
from data.sources.recognise import misfit

Chosen = Callable[[list[str]], list[str]]  # the columns in a file -> those to read
ROWS = 1024  # that are turned into Python values at once, at most
ROWS_BYTES = 2**24  # of the values of these rows, if all are of the usual size of their part
# The end of a stream of Arrow messages. Without it a file that was cut reads like a shorter one.
END_MARK = b"\xff\xff\xff\xff\0\0\0\0"


@contextmanager
def _whole(path: Path, name: str) -> Iterator[None]:
    """Turn pyarrow's messages about a file into one that says which, what it is, what to do."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if said := misfit(head_of(path, name), path, "parquet"):
            raise DataError(f"{name} {said}") from None
        raise damaged(name, path.stat().st_size, str(error).splitlines()[0]) from None


def table_units(files: list[InputFile]) -> list[InputUnit]:
    """Whole row groups or record batches of about UNIT_BYTES in memory, from the files' metadata.

    A file behind a URL is one unit: cutting it would bring all files to one machine first.
    """
    units: list[InputUnit] = []
    for file in files:
        if is_url(file.name):
            units.append(InputUnit((file.name,)))
            continue
        cuts = group([size for _, size in parts_of(file)], inputs.UNIT_BYTES)
        units += [InputUnit((file.name,), start, stop) for start, stop in cuts]
    return units


def parts_of(file: InputFile) -> list[tuple[int, int]]:
    """(rows, bytes in memory) of each row group or record batch of a file of this machine."""
    with _whole(Path(file.name), file.name):
        return list(_parts(Path(file.name)))


def schema_of(path: Path, name: str) -> dict[str, str]:
    """The columns of a file and their types, in the words of a contract."""
    import pyarrow.parquet as pq

    with _whole(path, name):
        if _is_arrow(path):
            with _opened(path) as reader:
                schema = reader.schema
        else:
            schema = pq.read_schema(path)
    return {field.name: _kind(field.type) for field in schema}


def _kind(arrow_type: Any) -> str:
    import pyarrow.types as types

    if types.is_dictionary(arrow_type):
        return _kind(arrow_type.value_type)
    tests = {
        "string": (types.is_string, types.is_large_string, types.is_string_view),
        "boolean": (types.is_boolean,),
        "integer": (types.is_integer,),
        "number": (types.is_floating,),
        "list": (types.is_list, types.is_large_list, types.is_fixed_size_list),
        "object": (types.is_struct,),
        "null": (types.is_null,),
    }
    for kind, checks in tests.items():
        if any(check(arrow_type) for check in checks):
            return kind
    return str(arrow_type)


def read_table(unit: InputUnit, columns: Chosen) -> Iterator[Placed]:
    """The rows of a unit, with the columns that are needed.

    Args:
        unit: which rows.
        columns: function from the names in the file to those to read; it raises ColumnError.
    """
    [file] = unit.files
    name, path = name_of(file), path_of(file)
    batches = _batches(path, name, unit, columns)
    while True:
        with _whole(path, name):
            first, batch = next(batches, (0, None))
        if batch is None:
            return
        number = first
        for row in _rows(batch, name, number):
            yield f"{name}: row {number}", row
            number += 1


def _rows(batch: Any, name: str, first: int) -> Iterator[dict[str, Any]]:
    """The rows of a batch as Python values.

    Raises:
        DataError: a text that is not UTF-8; says in which row.
    """
    names = batch.schema.names
    try:
        values = [batch.column(i).to_pylist() for i in range(len(names))]
    except UnicodeDecodeError:
        raise _not_utf8(batch, name, first) from None
    for row in zip(*values, strict=True):
        yield dict(zip(names, row, strict=True))


def _not_utf8(batch: Any, name: str, first: int) -> DataError:
    for row in range(batch.num_rows):
        for column in batch.schema.names:
            try:
                batch.column(column)[row].as_py()
            except UnicodeDecodeError as error:
                return DataError(
                    f"{name}: row {first + row}: {column} is not UTF-8: byte "
                    f"0x{error.object[error.start]:02x} at byte {error.start} of it; repair or "
                    "drop this row"
                )
    raise AssertionError("the values that could not be read one way can be read another way")


def _is_arrow(path: Path) -> bool:
    return path.suffix.lower() == ".arrow"


def _parts(path: Path) -> Iterator[tuple[int, int]]:
    """(rows, bytes in memory) of each row group or record batch."""
    import pyarrow.parquet as pq

    if _is_arrow(path):
        with _opened(path) as reader:
            for batch in _record_batches(reader):
                yield batch.num_rows, batch.nbytes
        return
    with pq.ParquetFile(path) as opened:
        for number in range(opened.num_row_groups):
            about = opened.metadata.row_group(number)
            yield about.num_rows, about.total_byte_size


def _batches(path: Path, name: str, unit: InputUnit, columns: Chosen) -> Iterator[tuple[int, Any]]:
    """(number of its first row from 1, batch of at most some thousand rows) of a unit."""
    import pyarrow.parquet as pq

    row = 1
    if _is_arrow(path):
        with _opened(path) as reader:
            wanted = _columns(columns, name, reader.schema.names)
            for number, batch in enumerate(_record_batches(reader)):
                if unit.stop is not None and number >= unit.stop:
                    return
                if number >= unit.start:
                    step = _rows_at_once(batch.num_rows, batch.nbytes)
                    for at in range(0, batch.num_rows, step):
                        yield row + at, batch.slice(at, step).select(wanted)
                row += batch.num_rows
        return
    with pq.ParquetFile(path) as opened:
        wanted = _columns(columns, name, opened.schema_arrow.names)
        about = opened.metadata
        stop = about.num_row_groups if unit.stop is None else unit.stop
        row += sum(about.row_group(number).num_rows for number in range(unit.start))
        for number in range(unit.start, stop):
            group = about.row_group(number)
            size = _rows_at_once(group.num_rows, group.total_byte_size)
            for batch in opened.iter_batches(size, row_groups=[number], columns=wanted):
                yield row, batch
                row += batch.num_rows


def _rows_at_once(rows: int, size: int) -> int:
    return max(1, min(ROWS, ROWS_BYTES * rows // max(size, 1)))


def _columns(columns: Chosen, name: str, names: list[str]) -> list[str]:
    try:
        return columns(names)
    except ColumnError as error:
        raise ColumnError(f"{name}: {error}") from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The reader of an Arrow file in either format; values stay on the disk until they are used."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as mapped:
        is_file_format = mapped.read(6) == b"ARROW1"
        mapped.seek(max(0, mapped.size() - len(END_MARK)))
        if not is_file_format and mapped.read(len(END_MARK)) != END_MARK:
            raise pa.ArrowInvalid("the end mark of the stream is missing")
        mapped.seek(0)
        yield (pa.ipc.open_file if is_file_format else pa.ipc.open_stream)(mapped)


def _record_batches(reader: Any) -> Iterator[Any]:
    count = getattr(reader, "num_record_batches", None)
    return iter(reader) if count is None else map(reader.get_batch, range(count))
