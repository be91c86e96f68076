"""Tables on the disk as Arrow, part by part, for whoever looks at all of their columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.files import DataError
from data.messages import did_you_mean
from data.sources.compressed import open_bytes
from data.sources.recognise import COMPRESSED

PLAIN = (".csv", ".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow", *PLAIN, *(kind + end for kind in PLAIN for end in COMPRESSED))
PART_ROWS = 1 << 16


def is_table(path: Path) -> bool:
    """Whether the name is that of a table."""
    return path.name.endswith(TABLES)


def table_parts(path: Path) -> Iterator[Any]:
    """The record batches of a table, at most PART_ROWS rows each; types as the file has them.

    Raises:
        DataError: no such format, or a damaged file.
    """
    import pyarrow as pa

    if not is_table(path):
        hint = did_you_mean("".join(path.suffixes), TABLES)
        raise DataError(f"{path} is no table: its name must end in {', '.join(TABLES)}{hint}")
    try:
        yield from _parts(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise DataError(f"{path} can't be read to its end: {said}; repair or replace it") from None


def _parts(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    kind = path.with_suffix("").suffix if path.suffix in COMPRESSED else path.suffix
    if kind == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as opened:
            yield from opened.iter_batches(batch_size=PART_ROWS)
        return
    if kind == ".csv":
        from pyarrow import csv

        with open_bytes(path, str(path)) as opened:
            table = csv.read_csv(opened)
    elif kind == ".arrow":
        with pa.OSFile(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).read_all()
    else:
        from pyarrow import json

        with open_bytes(path, str(path)) as opened:
            table = json.read_json(opened)
    yield from table.to_batches(max_chunksize=PART_ROWS)
