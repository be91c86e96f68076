"""Parallel texts in files: gettext catalogues, TSV, tables, Hugging Face datasets.

A pair keeps its key, the source text, so that no split holds a source of another.
"""

from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from data.config import SourceConfig
from data.contract import ColumnError
from data.files import DataError
from data.messages import did_you_mean, listed
from data.sources.compressed import open_bytes
from data.sources.hub import hub_units, read_hub
from data.sources.pair import Pair
from data.sources.table_files import TABLES, is_table, table_parts

HUB = "hf:"  # before the name or folder of a Hugging Face dataset
CATALOGUES = (".po", ".mo")
TSV = (".tsv", ".tsv.gz", ".tsv.zst")
NESTED = "translation"  # column of Hugging Face's parallel datasets: a text for each language


def has_columns(path: str) -> bool:
    """Whether the texts of a path stand in columns with names."""
    return path.startswith(HUB) or path.endswith(TABLES)


def file_pairs(path: str, languages: tuple[str, str]) -> Iterator[Pair]:
    """The pairs of files, in their order; what has an empty side is no pair.

    Args:
        path: a file or glob of .po, .mo, .tsv or of a table; or hf:NAME, hf:NAME:SUBSET, hf:FOLDER.
        languages: of source and target: the names of the columns, or the keys in the column
            "translation"; files without named columns have the source first.

    Raises:
        DataError: nothing is there, of no such kind, damaged, or without these columns.
    """
    if path.startswith(HUB):
        files: list[Iterator[tuple[Any, Any]]] = [_hub(path.removeprefix(HUB), languages)]
    else:
        names = sorted(glob(path)) or [path]  # noqa: PTH207 - an absolute pattern, too
        files = [_file(Path(name), languages) for name in names]
    for texts in files:
        for source, target in texts:
            if source and target:
                yield Pair(str(source), str(target), key=str(source))


def _file(path: Path, languages: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
    if not path.is_file():
        raise DataError(f"{path} is no file; give one that ends in {_kinds()}, or hf:NAME")
    if path.suffix in CATALOGUES:
        return _catalogue(path)
    if path.name.endswith(TSV):
        return _tsv(path)
    if is_table(path):
        return _table(path, languages)
    raise DataError(f"{path} is no file of pairs: its name must end in {_kinds()}")


def _kinds() -> str:
    return ", ".join((*CATALOGUES, *TSV, *TABLES))


def _catalogue(path: Path) -> Iterator[tuple[Any, Any]]:
    """Messages of gettext with their translations; of a plural, both forms that it has in common.

    Fuzzy ones are guesses of a tool, obsolete ones are not in use: neither counts.
    """
    try:
        from babel.messages.mofile import read_mo
        from babel.messages.pofile import PoFileError, read_po
    except ImportError:
        raise DataError(
            f"{path}: gettext catalogues need the package babel; install orchestrate[translate]"
        ) from None
    try:
        with path.open("rb") as file:
            is_compiled = path.suffix == ".mo"
            catalogue: Any = read_mo(file) if is_compiled else read_po(file, abort_invalid=True)
    except (PoFileError, OSError, ValueError, LookupError) as error:
        raise DataError(f"{path} can't be read as a catalogue: {error}; repair it") from None
    for message in catalogue:
        if not message.id or message.fuzzy:
            continue
        if isinstance(message.id, str):
            yield message.id, message.string
        else:
            # French has three forms by now, most files fill in two: an empty one is nothing, and
            # babel's compiler writes the source in its place.
            texts = [text for text in message.string if text and text not in message.id]
            if texts:
                yield message.id[0], texts[0]
                yield message.id[-1], texts[-1]


def _tsv(path: Path) -> Iterator[tuple[str, str]]:
    """The first two columns, without a header; more columns say whose they are, and the like."""
    with open_bytes(path, str(path)) as file:
        for number, raw in enumerate(file, 1):
            try:
                fields = raw.decode("utf-8").rstrip("\r\n").split("\t")
            except UnicodeDecodeError as error:
                raise DataError(f"{path}: line {number} is no UTF-8 ({error}); repair it") from None
            if len(fields) < 2 and fields != [""]:
                raise DataError(f"{path}: line {number} has no tab; each line is SOURCE<tab>TARGET")
            if len(fields) >= 2:
                yield fields[0], fields[1]


def _table(path: Path, languages: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
    for part in table_parts(path):
        columns = _columns(str(path), part.schema.names, languages)
        yield from _rows(str(path), [part[name].to_pylist() for name in columns], languages)


def _hub(path: str, languages: tuple[str, str]) -> Iterator[tuple[Any, Any]]:
    config = SourceConfig(source="hf", path=path)

    def chosen(names: list[str]) -> list[str]:
        return _columns(f"{HUB}{path}", names, languages)

    for unit in hub_units(config):
        for where, row in read_hub(config, unit, chosen):
            yield from _rows(where, [[value] for value in row.values()], languages)


def _columns(where: str, names: list[str], languages: tuple[str, str]) -> list[str]:
    """The columns to read: one of each language, or the one that holds both."""
    if NESTED in names and not set(languages) <= set(names):
        return [NESTED]
    for name in languages:
        if name not in names:
            raise ColumnError(
                f"{where} has no column {name}{did_you_mean(name, names)}; it has {listed(names)}; "
                "name two of them: stage.languages=[A,B]"
            )
    return list(languages)


def _rows(
    where: str, columns: list[list[Any]], languages: tuple[str, str]
) -> Iterator[tuple[Any, Any]]:
    """The texts of columns, or of the languages in the only one."""
    if len(columns) == 2:
        yield from zip(*columns, strict=True)
        return
    for both in columns[0]:
        if not isinstance(both, Mapping) or not set(languages) <= set(both):
            has = listed(both) if isinstance(both, Mapping) else "no languages"
            raise DataError(
                f"{where}: column {NESTED} has {has}, not {' and '.join(languages)}; name two that "
                "are there: stage.languages=[A,B]"
            )
        yield both[languages[0]], both[languages[1]]
