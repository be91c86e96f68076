"""Where documents come from: a table of sources, each a function from DataConfig to texts.

A document is one text that the model reads from its start to its end; what a document is in each
source stands in the source's docstring. Nothing is repaired on the way: text that can't be read
is an error that names the file and the place.
"""

import difflib
import glob
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.files import DataError, did_you_mean, read_utf8
from data.python_docs import python_docs

OFFLINE_HELP = (
    "names of the hub need a network the first time; a dataset that is already in the local cache "
    "or a local folder (data.path=FOLDER) works without one"
)
PIECE = 8192  # characters; longer text files are cut, so that one file can fill both splits


@dataclass
class DataConfig:
    """Which text to train on, how it is split, and the order in which it is seen."""

    source: str = "python_docs"
    """python_docs (inside every Python, no network), text, jsonl, parquet or hf."""
    path: str | None = None
    """File, folder or glob; for hf a dataset name (name or name:subset) or a local folder."""
    split: str = "train"
    """Split to read of an hf dataset; the other sources have only this one."""
    text_column: str = "text"
    """Column (or JSON field) that holds the text in jsonl, parquet and hf."""
    validation_fraction: float = 0.05
    """Share of the documents, chosen by their hash, that is kept for validation."""
    sequence_length: int = 256
    """Tokens predicted per row."""
    seed: int = 0
    """Seed of the sample order."""

    def __post_init__(self) -> None:
        """Check every field; messages name the setting, its value and what would do."""
        if self.source not in SOURCES:
            hint = did_you_mean(self.source, SOURCES)
            raise DataError(f"data.source={self.source} is not one of {', '.join(SOURCES)}{hint}")
        if self.source != "python_docs" and not self.path:
            what = "NAME" if self.source == "hf" else "FILE"
            raise DataError(f"data.source={self.source} needs data.path={what}")
        if self.source == "python_docs" and self.path is not None:
            raise DataError(
                f"data.path={self.path} is not read by data.source=python_docs; add "
                "data.source=text (or jsonl, parquet, hf) or drop the path"
            )
        if self.source != "hf" and self.split != "train":
            raise DataError(
                f"data.split={self.split} is for data.source=hf only; name files in data.path"
            )
        if not self.text_column:
            raise DataError("data.text_column is empty; it must name a column, for example text")
        if not 0 < self.validation_fraction < 1:
            fraction = self.validation_fraction
            raise DataError(f"data.validation_fraction={fraction} must be inside 0..1; try 0.05")
        if self.sequence_length < 1:
            raise DataError(f"data.sequence_length={self.sequence_length} must be >= 1; try 256")
        if self.seed < 0:
            raise DataError(f"data.seed={self.seed} must be 0 or more")


def files_of(config: DataConfig) -> list[Path]:
    """The files that data.path stands for, sorted by name; empty for sources without files.

    Raises:
        DataError: there is nothing at the path, or no file of the source's kind in the folder.
    """
    if config.source == "python_docs" or config.path is None:
        return []
    path = Path(config.path).expanduser()
    if config.source == "hf":
        return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
    if path.is_file():
        return [path]
    kinds = SUFFIXES[config.source]
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix in kinds)
        if not found:
            raise DataError(
                f"data.path={config.path}: no {' or '.join(kinds)} file in this folder or below; "
                f"give a glob, for example '{config.path}/**/*.log'"
            )
        return found
    found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())  # noqa: PTH207 - absolute patterns
    if found:
        return found
    if glob.has_magic(str(path)):
        raise DataError(f"data.path={config.path}: no file matches this pattern in {Path.cwd()}")
    parent = next(p for p in path.absolute().parents if p.exists())
    hint = did_you_mean(path.name, (p.name for p in parent.iterdir())) or f" ({parent} exists)"
    raise DataError(f"data.path={config.path}: there is no such file or folder{hint}")


def documents(config: DataConfig) -> Iterator[str]:
    """The documents of the source, in its own order, as they are (repeats and empty ones too).

    Raises:
        DataError: a file is missing, damaged, binary, not UTF-8 or lacks the column.
    """
    return SOURCES[config.source](config)


def pieces(text: str) -> Iterator[str]:
    """Cut a text in pieces of at most PIECE characters that join to the text again.

    Cuts at the last blank line of the piece, else the last line end, else the last space, else
    in the middle of a word.
    """
    start = 0
    while len(text) - start > PIECE:
        end = start + PIECE
        for mark in ("\n\n", "\n", " "):
            if (cut := text.rfind(mark, start + 1, end)) > start:
                end = cut + len(mark)
                break
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _text(config: DataConfig) -> Iterator[str]:
    """Text files; a file up to PIECE characters is one document, a longer one is cut."""
    for file in files_of(config):
        yield from pieces(read_utf8(file))


def _checked(value: Any, column: str, place: str) -> str:
    """A value as a document; None (no text) is an empty one, which the reader drops and counts."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{place}: {column} holds {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{place}: {column} holds half of a surrogate pair (U+{ord(value[error.start]):04X} at "
            f"character {error.start}), which no UTF-8 text can; repair or drop this record"
        ) from None
    return value


def _jsonl(config: DataConfig) -> Iterator[str]:
    """One JSON object per line; its text field is a document. Blank lines are allowed."""
    column = config.text_column
    for file in files_of(config):
        for number, line in enumerate(read_utf8(file).split("\n"), start=1):
            if not line.strip():
                continue
            place = f"{file}:{number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{place}: not a JSON object: {error}") from None
            if not isinstance(record, dict):
                raise DataError(f"{place}: a JSON {type(record).__name__}, not an object")
            if column not in record:
                raise DataError(_no_column(column, list(record), place))
            yield _checked(record[column], column, place)


def _no_column(column: str, names: list[str], place: str) -> str:
    near = difflib.get_close_matches(column, names, n=1)
    use = near[0] if near else "NAME"
    return (
        f"{place}: data.text_column={column} is not a column; there are: "
        f"{', '.join(names) or 'none'} (set data.text_column={use})"
    )


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Turn pyarrow's messages about a damaged file into one that says which and what to do."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} can't be read to its end ({file.stat().st_size} bytes): it is damaged or its "
            f"download was interrupted; fetch it again ({str(error).splitlines()[0]})"
        ) from None


def _parquet(config: DataConfig) -> Iterator[str]:
    """Parquet or Arrow files; one document per row."""
    for file in files_of(config):
        number = 0
        batches = _batches(file, config.text_column)
        while True:
            with _whole(file):
                column = next(batches, None)
            if column is None:
                break
            for value in column:
                number += 1
                yield _checked(value, config.text_column, f"{file}: row {number}")


def _batches(file: Path, column: str) -> Iterator[list[Any]]:
    """The values of a column, some rows at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.OSFile(str(file)) as opened:
        if file.suffix == ".arrow":
            is_file_format = opened.read(6) == b"ARROW1"
            opened.seek(max(0, opened.size() - 8))
            # A stream cut between two messages reads like a shorter one; only its end mark tells.
            if not is_file_format and opened.read(8) != b"\xff\xff\xff\xff\0\0\0\0":
                raise pa.ArrowInvalid("the end mark of the stream is missing")
            opened.seek(0)
            reader: Any = (pa.ipc.open_file if is_file_format else pa.ipc.open_stream)(opened)
            names = reader.schema.names
            if column not in names:
                raise DataError(_no_column(column, names, str(file)))
            count = reader.num_record_batches if is_file_format else None
            batches = reader if count is None else map(reader.get_batch, range(count))
        else:
            reader = pq.ParquetFile(opened)
            names = reader.schema_arrow.names
            if column not in names:
                raise DataError(_no_column(column, names, str(file)))
            batches = reader.iter_batches(batch_size=1024, columns=[column])
        for batch in batches:
            yield batch.column(batch.schema.get_field_index(column)).to_pylist()


def _hf(config: DataConfig) -> Iterator[str]:
    """A Hugging Face dataset by name (name or name:subset), or a local folder of one."""
    for number, value in enumerate(_load_split(config), start=1):
        yield _checked(value, config.text_column, f"{config.path}: row {number}")


def _load_split(config: DataConfig) -> Iterator[Any]:
    """Yield the values of the text column of one split.

    Raises:
        DataError: unknown name, no network, no such split or column, or a damaged file.
    """
    # Read once, when huggingface_hub is imported; without them a dead network takes minutes.
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "5")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    import datasets

    path = str(config.path)
    folder = Path(path).expanduser()
    dataset = _load_dataset(datasets, folder, path, config.split)
    if isinstance(dataset, dict):
        if config.split not in dataset:
            raise DataError(
                f"data.split={config.split} is not a split of {path}; there are: "
                f"{', '.join(dataset)}"
            )
        dataset = dataset[config.split]
    if config.text_column not in dataset.column_names:
        raise DataError(_no_column(config.text_column, dataset.column_names, path))
    for batch in dataset.select_columns([config.text_column]).iter(1024):
        yield from batch[config.text_column]


def _load_dataset(datasets: Any, folder: Path, path: str, split: str) -> Any:
    """The split, or a dict of splits; the library's many errors become one kind."""
    try:
        if folder.is_dir():
            if any((folder / n).exists() for n in ("state.json", "dataset_dict.json")):
                return datasets.load_from_disk(str(folder))
            return datasets.load_dataset(str(folder), split=split)
        if path.startswith((".", "/", "~")):
            raise DataError(f"data.path={path}: there is no such folder")
        name, _, subset = path.partition(":")
        return datasets.load_dataset(name, subset or None, split=split)
    except DataError:
        raise
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        if folder.is_dir():
            raise DataError(
                f"data.path={path} can't be read as a dataset ({type(error).__name__}: {first}); a "
                "file in it may be damaged or its download interrupted: fetch it again"
            ) from error
        raise DataError(
            f"data.path={path}: dataset not loaded ({type(error).__name__}: {first}). "
            f"Check the name; {OFFLINE_HELP}."
        ) from error


SOURCES: dict[str, Callable[[DataConfig], Iterator[str]]] = {
    "python_docs": lambda config: python_docs(),
    "text": _text,
    "jsonl": _jsonl,
    "parquet": _parquet,
    "hf": _hf,
}
SUFFIXES = {
    "text": (".txt", ".md"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet", ".arrow"),
}
