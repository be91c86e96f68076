"""Which files a dataset consists of, and how they are cut into units of work."""

import glob
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.config import FORMATS, SourceConfig
from data.files import DataError
from data.messages import did_you_mean
from data.sources.compressed import COMPRESSED
from data.sources.remote import fetch, listing
from data.sources.urls import hide_secrets, is_pattern, is_url, local_path

UNIT_BYTES = 64 * 2**20  # about so much input is one unit of work


@dataclass(frozen=True)
class InputUnit:
    """A part of a dataset that is read, filtered and tokenized as one piece of work.

    `start` and `stop` count bytes of a text or jsonl file (a character, a line belongs to the unit
    in which its first byte is), row groups of a parquet file, record batches of an arrow file, rows
    of a Hugging Face dataset or shards of one that is streamed. Nothing in it depends on the
    machine.
    """

    files: tuple[str, ...]
    """One path or URL, as the setting has it; several small text files; a dataset's name."""
    start: int = 0
    stop: int | None = None
    """None: to the end."""


def clipped(unit: InputUnit, start: int, stop: int) -> InputUnit | None:
    """What of a unit of bytes lies in [start, stop) of its file. None: nothing."""
    start = max(start, unit.start)
    stop = stop if unit.stop is None else min(stop, unit.stop)
    return InputUnit(unit.files, start, stop) if start < stop else None


@dataclass(frozen=True)
class InputFile:
    """One file, as it looks from outside."""

    name: str
    """Path or URL."""
    size: int | None
    """Bytes; None: a server does not say."""
    version: Any
    """JSON-able; changes when the content does. None: a server does not say."""


def name_of(file: str) -> str:
    """What messages call a file: its path, or its URL without secrets."""
    return hide_secrets(file) if is_url(file) else file


def path_of(file: str) -> Path:
    """The file on this machine; a URL is fetched, once.

    Raises:
        DataError: it is not there, or can't be fetched.
    """
    if is_url(file):
        return fetch(file)
    if not (path := Path(file)).is_file():
        raise DataError(
            f"{file} is not there ({Path.cwd()} on {os.uname().nodename}); every machine that "
            "reads the data must see it under this path"
        )
    return path


def files_of(config: SourceConfig) -> list[InputFile]:
    """The files that data.path stands for, sorted by name.

    Raises:
        DataError: there is nothing at the path, or no file of the source's kind in the folder.
    """
    path = str(config.path)
    if path.startswith("file://"):
        return _local_files(config, local_path(path))
    if not is_url(path):
        return _local_files(config, Path(path).expanduser())
    found = listing(path)
    if [file.url for file in found] != [path] and not is_pattern(path):
        found = [file for file in found if file.url.lower().endswith(_suffixes(config))]
    if not found:
        raise _nothing(config)
    return [InputFile(file.url, file.size, file.identity) for file in found]


def local_state(path: Path) -> InputFile:
    """A file of this machine, as it looks from outside."""
    stat = path.stat()
    version = [str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    return InputFile(str(path), stat.st_size, version)


def _suffixes(config: SourceConfig) -> tuple[str, ...]:
    plain = FORMATS[config.source]
    if config.source == "parquet":  # has compression of its own
        return plain
    return plain + tuple(kind + packed for kind in plain for packed in COMPRESSED)


def _nothing(config: SourceConfig) -> DataError:
    kinds = " or ".join(FORMATS[config.source])
    return DataError(
        f"data.path={name_of(str(config.path))}: no {kinds} file in this folder or below; "
        f"give a glob, for example '{name_of(str(config.path))}/**/*.log'"
    )


def _local_files(config: SourceConfig, path: Path) -> list[InputFile]:
    if path.is_file():
        return [local_state(path)]
    if path.is_dir():
        kinds = _suffixes(config)
        found = sorted(p for p in path.rglob("*") if p.name.lower().endswith(kinds) and p.is_file())
        if not found:
            raise _nothing(config)
        return [local_state(p) for p in found]
    found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())  # noqa: PTH207 - absolute patterns
    if found:
        return [local_state(p) for p in found]
    if glob.has_magic(str(path)):
        raise DataError(f"data.path={config.path}: no file matches this pattern in {Path.cwd()}")
    parent = next(p for p in path.absolute().parents if p.exists())
    hint = did_you_mean(path.name, (p.name for p in parent.iterdir())) or f" ({parent} exists)"
    raise DataError(f"data.path={config.path}: there is no such file or folder{hint}")


def group(sizes: list[int], limit: int) -> list[tuple[int, int]]:
    """Cut a sequence of sizes into ranges [start, stop) that each reach the limit, but the last."""
    cuts: list[tuple[int, int]] = []
    start, total = 0, 0
    for number, size in enumerate(sizes, start=1):
        total += size
        if total >= limit:
            cuts.append((start, number))
            start, total = number, 0
    if start < len(sizes):
        cuts.append((start, len(sizes)))
    return cuts
