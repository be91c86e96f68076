"""The filter that keeps evaluation sets out of the training text.

A text that shares an n-gram of 13 words with an evaluation text is left out, as for GPT-3 (Brown
et al. 2020, appendix C). GPT-3 cut a window of 200 characters around the overlap and forgave
n-grams found in more than ten training documents; here the whole document goes, and whether a few
shared n-grams are too many is a setting.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xxhash

from data.files import DataError, parse_json, read_utf8, sha256_file
from data.filters.rules import Drop, Rule, existing_file, option
from data.filters.words import PARAGRAPH_END, WORD, Hashes, hash_ngrams, hash_words, normal_words


@dataclass(frozen=True)
class Decontaminate(Rule):
    """Texts that overlap with an evaluation set, or are a short text of one."""

    example: ClassVar[str] = "{name: decontaminate, paths: [evaluation.jsonl]}"
    paths: list[str] = field(default_factory=list)
    """Files of evaluation sets: .jsonl (one object a line), else text (paragraphs)."""
    fields: list[str] = field(default_factory=list)
    """Fields of the .jsonl objects that are compared. Empty: every text in them."""
    n: int = option(13, low=3, high=100)
    """Words that must be the same in a row, case and punctuation aside."""
    min_matches: int = option(1, low=1)
    """Fewest places of such an overlap in a text that is left out."""
    min_fraction: float = option(0.0, low=0, high=1)
    """Lowest share of such places among those of the text."""

    def check(self, where: str) -> None:
        """There are files, and each can be read and has a word in it."""
        if not self.paths:
            raise DataError(f"{where}.paths=[] names no file; for example {self.example}")
        for path in self.paths:
            existing_file(f"{where}.paths", path)
        index = self._index()
        for number, path in enumerate(self.paths):
            if number not in index.files:
                what = f"no text in the fields {', '.join(self.fields)}" if self.fields else "empty"
                raise DataError(f"{where}.paths={path} has no word to compare with: {what}")

    def files(self) -> tuple[Path, ...]:
        """The evaluation sets."""
        return tuple(Path(path).expanduser() for path in self.paths)

    def _index(self) -> "_Index":
        shas = tuple(sha256_file(file) for file in self.files())
        return _build_index(self.files(), shas, tuple(self.fields), self.n)

    @functools.cached_property
    def _ready(self) -> "_Index":
        return self._index()

    def find(self, text: str) -> Drop | None:
        """Look each n-gram of the text up; compare a shorter text as a whole."""
        index = self._ready
        hashes = hash_words(normal_words(text))
        if not len(hashes):
            return None
        if (number := index.texts.get(_whole(hashes))) is not None:
            return Drop(f"the same as a text of {Path(self.paths[number]).name}")
        grams = hash_ngrams(hashes, self.n)
        if not len(grams) or not len(index.grams):
            return None
        place = np.searchsorted(index.grams, grams)
        place[place == len(index.grams)] = 0
        found = np.flatnonzero(index.grams[place] == grams)
        if len(found) < self.min_matches or len(found) < self.min_fraction * len(grams):
            return None
        number = int(index.sources[place[found[0]]])
        places = (m.start() for m in WORD.finditer(text.casefold()))
        at = next(start for k, start in enumerate(places) if k == found[0])
        return Drop(f"overlaps with {Path(self.paths[number]).name}", at)

    def __getstate__(self) -> dict[str, Any]:
        """The options alone: an index is built in each process, not sent to it."""
        return {k: v for k, v in self.__dict__.items() if k != "_ready"}


@dataclass(frozen=True)
class _Index:
    """What evaluation sets hold."""

    grams: Hashes  # (G,) ascending, each once
    sources: np.ndarray[Any, np.dtype[np.int32]]  # (G,) number of the first file with it
    texts: dict[int, int]  # hash of a whole text -> number of the first file with it
    files: frozenset[int]  # numbers of the files with a word in them


@functools.lru_cache(maxsize=8)
def _build_index(
    files: tuple[Path, ...], shas: tuple[str, ...], fields: tuple[str, ...], n: int
) -> _Index:
    """Read the files and hash their n-grams; once per process and content."""
    grams: list[Hashes] = []
    sources: list[int] = []
    texts: dict[int, int] = {}
    filled = set()
    for number, file in enumerate(files):
        for text in evaluation_texts(file, fields):
            hashes = hash_words(normal_words(text))
            if not len(hashes):
                continue
            filled.add(number)
            texts.setdefault(_whole(hashes), number)
            grams.append(hash_ngrams(hashes, n))
            sources.append(number)
    lengths = [len(g) for g in grams]
    joined = np.concatenate(grams) if grams else np.zeros(0, np.uint64)
    unique, first = np.unique(joined, return_index=True)
    owners = np.repeat(np.array(sources, np.int32), lengths)
    return _Index(unique, owners[first], texts, frozenset(filled))


def _whole(hashes: Hashes) -> int:
    """One number for all words of a text in their order."""
    return xxhash.xxh3_64_intdigest(hashes.astype("<u8").tobytes())


def evaluation_texts(file: Path, fields: tuple[str, ...]) -> Iterator[str]:
    """The texts of an evaluation set: strings of .jsonl objects, paragraphs of other files.

    Raises:
        DataError: a line is not a JSON object, or lacks one of the fields.
    """
    content = read_utf8(file)
    if file.suffix not in (".jsonl", ".ndjson"):
        yield from PARAGRAPH_END.split(content)
        return
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except DataError as error:
            raise DataError(f"{file}:{number}: {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{file}:{number}: a JSON {type(record).__name__}, not an object")
        for name in fields:
            if name not in record:
                raise DataError(
                    f"{file}:{number}: there is no field {name}; there are: {', '.join(record)}"
                )
        yield from _strings([record[name] for name in fields] if fields else record)


def _strings(value: Any) -> Iterator[str]:
    """Every text in a JSON value, at any depth."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
