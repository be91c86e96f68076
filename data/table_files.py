"""Tables on the disk as Arrow, part by part, for whoever looks at all of their columns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.files import DataError, did_you_mean

TABLES = (".parquet", ".csv", ".jsonl", ".ndjson", ".arrow")
PART_ROWS = 1 << 16


def table_parts(path: Path) -> Iterator[Any]:
    """The record batches of a table, at most PART_ROWS rows each; types as the file has them.

    Raises:
        DataError: no such format, or a damaged file.
    """
    import pyarrow as pa

    if path.suffix not in TABLES:
        hint = did_you_mean(path.suffix, TABLES)
        raise DataError(f"{path} is no table: its name must end in {', '.join(TABLES)}{hint}")
    try:
        yield from _parts(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        said = str(error).splitlines()[0]
        raise DataError(f"{path} can't be read to its end: {said}; repair or replace it") from None


def _parts(path: Path) -> Iterator[Any]:
    import pyarrow as pa

    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as opened:
            yield from opened.iter_batches(batch_size=PART_ROWS)
        return
    if path.suffix == ".csv":
        from pyarrow import csv

        table = csv.read_csv(path)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path)) as file:
            is_file = file.read(6) == b"ARROW1"
            file.seek(0)
            table = (pa.ipc.open_file if is_file else pa.ipc.open_stream)(file).read_all()
    else:
        from pyarrow import json

        table = json.read_json(path)
    yield from table.to_batches(max_chunksize=PART_ROWS)
