"""Filters on what a text says: its language, listed words, a score."""

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data.files import DataError, read_utf8
from data.filters.rules import Drop, Rule, Verdict, excerpt, existing_file, option
from data.filters.words import WORD, normal_words
from data.messages import did_you_mean
from data.records import Record

SCORERS: dict[str, Callable[[str], float]] = {}
"""Functions from a text to a number that configs may name (score, scorer=NAME).

Register in a module that every worker imports. A scorer that changes needs a new name: the name is
all that tells prepared data apart."""


@dataclass(frozen=True)
class Language(Rule):
    """Texts that are not in one of the languages that are kept (py3langid, no network).

    The model, 140 languages, is inside the package. A text of a few words is often misjudged;
    put `length` before this filter.
    """

    example: ClassVar[str] = "{name: language, keep: [en]}"
    packages: ClassVar[tuple[str, ...]] = ("py3langid",)
    keep: list[str] = field(default_factory=list)
    """Codes of the languages to keep, ISO 639: en, de."""
    min_probability: float = option(0.0, low=0, high=1)
    """Lowest probability of the language, as the model sees it."""
    characters: int = option(1000, low=100)
    """How much of a text is looked at: of a longer one, four equal parts spread over it."""

    def check(self, where: str) -> None:
        """Some language is kept, and the model knows each."""
        if not self.keep:
            raise DataError(f"{where}.keep=[] names no language; for example {self.example}")
        known = language_model().labels
        for code in self.keep:
            if code not in known:
                raise DataError(
                    f"{where}.keep={code} is not one of the {len(known)} languages of py3langid "
                    f"({', '.join(known[:12])}, ...){did_you_mean(code, known)}"
                )

    def find(self, text: str) -> Drop | None:
        """Compare the likeliest language with those that are kept."""
        language, probability = language_model().classify(spread(text, self.characters))
        if language not in self.keep:
            return Drop(f"language {language}")
        if probability < self.min_probability:
            return Drop(f"language probability under {self.min_probability:g}")
        return None


@functools.cache
def language_model() -> Any:
    """The identifier of py3langid, loaded once per process (0.5 s)."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def spread(text: str, characters: int) -> str:
    """At most this many characters of a text (and three line ends): four parts spread over it."""
    if len(text) <= characters:
        return text
    part = characters // 4
    gap = (len(text) - part) / 3
    starts = [round(k * gap) for k in range(4)]
    return "\n".join(text[start : start + part] for start in starts)


@dataclass(frozen=True)
class Words(Rule):
    """Texts with words of a list; case and punctuation don't matter, only whole words match."""

    example: ClassVar[str] = "{name: words, file: words.txt}"
    words: list[str] = field(default_factory=list)
    """Words, or several in a row ("red apple")."""
    file: str | None = option(None)
    """A file of them, one a line."""
    max_matches: int = option(0, low=0)
    """Most places with a listed word in a text that is kept."""

    def check(self, where: str) -> None:
        """There is a list, in one place, and each entry has a word in it."""
        if bool(self.words) == (self.file is not None):
            raise DataError(
                f"{where}: words needs either words or file, not both; for example {self.example}"
            )
        if self.file is not None:
            existing_file(f"{where}.file", self.file)
        listed = self._listed()
        if not listed:
            raise DataError(f"{where}.file={self.file} is empty; write one word a line")
        for entry in listed:
            if not normal_words(entry):
                raise DataError(f"{where}: {entry!r} in the list has no letter or digit; drop it")

    def files(self) -> tuple[Path, ...]:
        """The list."""
        return () if self.file is None else (Path(self.file).expanduser(),)

    def _listed(self) -> list[str]:
        lines = self.words if self.file is None else read_utf8(self.files()[0]).split("\n")
        return [line for line in lines if line.strip()]

    @functools.cached_property
    def _pattern(self) -> "tuple[frozenset[str], re.Pattern[str] | None]":
        """The single words, and a pattern of those that are several words in a row."""
        entries = {tuple(normal_words(entry)) for entry in self._listed()}
        rows = sorted((e for e in entries if len(e) > 1), key=lambda e: (-len(e), e))
        pattern = "|".join(re.escape(" ".join(row)) for row in rows)
        rows_pattern = re.compile(rf"(?<!\S)(?:{pattern})(?!\S)") if rows else None
        return frozenset(e[0] for e in entries if len(e) == 1), rows_pattern

    def find(self, text: str) -> Drop | None:
        """Count the places."""
        singles, rows = self._pattern
        words = normal_words(text)
        count = sum(map(singles.__contains__, words))
        if rows is not None:
            count += len(rows.findall(" ".join(words)))
        if count <= self.max_matches:
            return None
        # Folding case can move a place by some characters: close enough for an excerpt.
        places = (m.start() for m in WORD.finditer(text.casefold()) if m.group() in singles)
        return Drop(f"more than {self.max_matches} listed words", next(places, 0))


@dataclass(frozen=True)
class Score(Rule):
    """Records whose score, a column or a registered function of the text, is out of range."""

    example: ClassVar[str] = "{name: score, column: toxicity, max: 0.5}"
    column: str | None = option(None)
    """A numeric column of the record, for example written by an earlier model."""
    scorer: str | None = option(None)
    """A function of SCORERS; of several texts of a record, each must be in range."""
    min: float | None = option(None)
    """Lowest score that is kept."""
    max: float | None = option(None)
    """Highest score that is kept."""
    missing: str = option("stop", choices=("stop", "keep", "drop"))
    """What to do with a record without a score (null or not a number): stop, keep or drop."""

    def check(self, where: str) -> None:
        """One score, some limit, and a scorer that is registered."""
        if (self.column is None) == (self.scorer is None):
            raise DataError(
                f"{where}: score needs either column or scorer; for example {self.example}"
            )
        if self.scorer is not None and self.scorer not in SCORERS:
            hint = did_you_mean(self.scorer, SCORERS)
            raise DataError(
                f"{where}.scorer={self.scorer} is not registered; there are: "
                f"{', '.join(SCORERS) or 'none'} (data.content.SCORERS){hint}"
            )
        if self.min is None and self.max is None:
            raise DataError(f"{where}: score sets no limit; for example {self.example}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise DataError(f"{where}.min={self.min} must be at most max={self.max}; swap them")

    def columns(self) -> tuple[str, ...]:
        """The score's column."""
        return () if self.column is None else (self.column,)

    def judge(self, record: Record) -> Verdict:
        """Compare the column's value, or the score of each text, with the range."""
        for text in record.texts:
            value = SCORERS[self.scorer](text) if self.scorer else self._column(record)
            if reason := self._reason(value, record):
                return Verdict(record, reason, excerpt(text))
        return Verdict(record)

    def _column(self, record: Record) -> Any:
        column = str(self.column)
        if column not in record.columns:
            there = ", ".join(record.columns) or "none"
            raise DataError(
                f"{record.place}: there is no column {column} for the filter score; there are: "
                f"{there}{did_you_mean(column, record.columns)}"
            )
        return record.columns[column]

    def _reason(self, value: Any, record: Record) -> str | None:
        name = self.column or self.scorer
        if value is None or (isinstance(value, float) and math.isnan(value)):
            if self.missing == "stop":
                raise DataError(
                    f"{record.place}: {name} is {value}, not a score; repair the record, or set "
                    "missing: keep or missing: drop in the filter score"
                )
            return f"no {name}" if self.missing == "drop" else None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DataError(f"{record.place}: {name}={value!r} is not a number")
        if self.min is not None and value < self.min:
            return f"{name} under {self.min:g}"
        if self.max is not None and value > self.max:
            return f"{name} over {self.max:g}"
        return None
