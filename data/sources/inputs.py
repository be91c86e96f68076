"""Which files a dataset consists of, and how they are cut into units of work."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.addresses import hide, is_url
from data.config import FORMATS, SourceConfig
from data.files import DataError
from data.messages import cut, override
from data.sources.folders import KIND, find
from data.sources.recognise import COMPRESSED
from data.sources.remote import fetch, listing
from data.sources.urls import is_pattern, local_path

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


@dataclass(frozen=True)
class Listing:
    """What data.path stands for, and what it reaches that is not read."""

    files: list[InputFile]
    """Sorted by name."""
    passed_over: tuple[tuple[str, str], ...] = ()
    """Path and reason of each, sorted."""


def name_of(file: str) -> str:
    """What messages and records call a file: its path, or its URL without secrets.

    Bytes of a path that are not UTF-8, which no record could hold, are escaped: caf\\xe9.txt.
    """
    return os.fsencode(hide(file)).decode("utf-8", "backslashreplace")


def path_of(file: str) -> Path:
    """The file on this machine; a URL is fetched, once.

    Raises:
        DataError: it is not there, or can't be fetched.
    """
    if is_url(file):
        return fetch(file)
    if not (path := Path(file)).is_file():
        raise DataError(
            f"{name_of(file)} is not there ({Path.cwd()} on {os.uname().nodename}); every machine "
            "that reads the data must see it under this path"
        )
    return path


def files_of(config: SourceConfig) -> list[InputFile]:
    """The files that data.path stands for, sorted by name. Raises DataError as `listing_of`."""
    return listing_of(config).files


def listing_of(config: SourceConfig) -> Listing:
    """The files that data.path stands for, and what else it reaches.

    Raises:
        DataError: there is nothing at the path, or no file of the source's kind in the folder.
    """
    path = str(config.path)
    if path.startswith("file://"):
        return _local_files(config, local_path(path))
    if not is_url(path):
        return _local_files(config, Path(path).expanduser())
    found = listing(path)
    others = []
    if [file.url for file in found] != [path] and not is_pattern(path):
        kinds = _suffixes(config)
        others = [name_of(file.url) for file in found if not file.url.lower().endswith(kinds)]
        found = [file for file in found if file.url.lower().endswith(kinds)]
    passed_over = tuple((name, KIND) for name in others)
    if not found:
        raise _nothing(config, others)
    return Listing([InputFile(file.url, file.size, file.identity) for file in found], passed_over)


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


def _nothing(config: SourceConfig, others: list[str]) -> DataError:
    path = name_of(str(config.path)).rstrip("/")
    kinds = Counter(Path(name).suffix.lower() for name in others)
    kinds.pop("", None)
    there = ", ".join(f"{count:,} {cut(kind)}" for kind, count in kinds.most_common(3))
    other = next((s for kind in kinds for s in FORMATS if kind in FORMATS[s]), None)
    pattern = f"{path}/**/*{next(iter(kinds), '.log')}"
    remedy = (
        f"set data.source={other}" if other else f"give a pattern: {override('data.path', pattern)}"
    )
    return DataError(
        f"data.path={path}: no {' or '.join(FORMATS[config.source])} file in this folder or below"
        f"{f', but {there}' if there else ''}; {remedy}"
    )


def _local_files(config: SourceConfig, path: Path) -> Listing:
    found = find(path, _suffixes(config), f"data.path={cut(str(config.path), 300)}")
    if not found.files:
        raise _nothing(config, [name for name, _ in found.passed_over])
    passed_over = tuple((name_of(name), reason) for name, reason in found.passed_over)
    return Listing([local_state(file) for file in found.files], passed_over)


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
