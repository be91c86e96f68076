"""Filters on the shape of a text: its length, its repetition, its symbols.

The rules and their defaults are those of Gopher (Rae et al. 2021, "Scaling Language Models",
appendix A.1.1 and table A1). Words are what white space separates, so the rules suit languages
that write spaces. Every limit is a highest value that is still kept; 1 switches a share off.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from data.files import DataError
from data.filters.rules import Drop, Rule, option
from data.filters.words import PARAGRAPH_END, Hashes, extend_ngrams, hash_words

LETTER = re.compile(r"[^\W\d_]")
BULLETS = ("•", "‣", "▶", "◀", "◦", "■", "□", "▪", "▫", "\u2013", "-", "*")
ELLIPSES = ("...", "…")


def share(default: float) -> Any:
    """A limit on a share of the text, 0 to 1."""
    return option(default, low=0, high=1)


@dataclass(frozen=True)
class Length(Rule):
    """Texts that are too short or too long."""

    example: ClassVar[str] = "{name: length, min: 20}"
    min: int | None = option(None, low=0)
    """Fewest characters."""
    max: int | None = option(None, low=1)
    """Most characters."""
    min_words: int | None = option(None, low=0)
    """Fewest words. Gopher: 50."""
    max_words: int | None = option(None, low=1)
    """Most words. Gopher: 100,000."""

    def check(self, where: str) -> None:
        """Some limit is set, and no lower one is above its upper one."""
        if all(v is None for v in (self.min, self.max, self.min_words, self.max_words)):
            raise DataError(
                f"{where}: length sets no limit; give min, max, min_words or max_words, for "
                f"example {self.example}"
            )
        for name in ("", "_words"):
            low, high = getattr(self, f"min{name}"), getattr(self, f"max{name}")
            if low is not None and high is not None and low > high:
                raise DataError(
                    f"{where}.min{name}={low} must be at most max{name}={high}; swap them"
                )

    def find(self, text: str) -> Drop | None:
        """Compare characters, then words."""
        if self.min is not None and len(text) < self.min:
            return Drop(f"fewer than {self.min} characters")
        if self.max is not None and len(text) > self.max:
            return Drop(f"more than {self.max} characters")
        if self.min_words is None and self.max_words is None:
            return None
        words = len(text.split())
        if self.min_words is not None and words < self.min_words:
            return Drop(f"fewer than {self.min_words} words")
        if self.max_words is not None and words > self.max_words:
            return Drop(f"more than {self.max_words} words")
        return None


@dataclass(frozen=True)
class Symbols(Rule):
    """Texts made of symbols, lists or odd words rather than of sentences."""

    example: ClassVar[str] = "{name: symbols, max_bullet_lines: 0.9}"
    max_hashes_per_word: float = option(0.1, low=0)
    """Number signs (#) per word."""
    max_ellipses_per_word: float = option(0.1, low=0)
    """Ellipses (three dots or the one character) per word."""
    max_words_without_letters: float = share(0.2)
    """Share of words without a letter."""
    max_bullet_lines: float = share(0.9)
    """Share of lines that start with a bullet."""
    max_ellipsis_lines: float = share(0.3)
    """Share of lines that end with an ellipsis."""
    min_mean_word: float = option(3, low=0)
    """Lowest mean length of a word, in characters."""
    max_mean_word: float = option(10, low=0)
    """Highest mean length of a word, in characters."""

    def check(self, where: str) -> None:
        """The lower mean is not above the upper one."""
        if self.min_mean_word > self.max_mean_word:
            raise DataError(
                f"{where}.min_mean_word={self.min_mean_word} must be at most "
                f"max_mean_word={self.max_mean_word}; Gopher's are 3 and 10"
            )

    def find(self, text: str) -> Drop | None:
        """Compare each ratio with its limit; a text without words has none."""
        words = text.split()
        if not words:
            return Drop("no words")
        mean = sum(map(len, words)) / len(words)
        if not self.min_mean_word <= mean <= self.max_mean_word:
            side = "under" if mean < self.min_mean_word else "over"
            limit = self.min_mean_word if mean < self.min_mean_word else self.max_mean_word
            return Drop(f"mean word length {side} {limit:g}")
        if text.count("#") > self.max_hashes_per_word * len(words):
            return Drop(f"number signs per word over {self.max_hashes_per_word:g}")
        if sum(map(text.count, ELLIPSES)) > self.max_ellipses_per_word * len(words):
            return Drop(f"ellipses per word over {self.max_ellipses_per_word:g}")
        bare = sum(not word.isalpha() and LETTER.search(word) is None for word in words)
        if bare > self.max_words_without_letters * len(words):
            return Drop(f"words without letters over {self.max_words_without_letters:g}")
        lines = filled_lines(text)
        if sum(line.startswith(BULLETS) for line in lines) > self.max_bullet_lines * len(lines):
            return Drop(f"bullet lines over {self.max_bullet_lines:g}")
        if sum(line.endswith(ELLIPSES) for line in lines) > self.max_ellipsis_lines * len(lines):
            return Drop(f"ellipsis lines over {self.max_ellipsis_lines:g}")
        return None


@dataclass(frozen=True)
class Repetition(Rule):
    """Texts that say the same again and again (Gopher, table A1)."""

    example: ClassVar[str] = "{name: repetition, duplicate_lines: 0.3}"
    duplicate_lines: float = share(0.30)
    """Share of lines that stood above already."""
    duplicate_paragraphs: float = share(0.30)
    """Share of paragraphs that stood above already."""
    duplicate_line_characters: float = share(0.20)
    """Share of the characters of lines that is in such lines."""
    duplicate_paragraph_characters: float = share(0.20)
    """Share of the characters of paragraphs that is in such paragraphs."""
    top_2_grams: float = share(0.20)
    """Share of characters that the most frequent 2-gram covers, white space aside."""
    top_3_grams: float = share(0.18)
    """The same for 3-grams."""
    top_4_grams: float = share(0.16)
    """The same for 4-grams."""
    duplicate_5_grams: float = share(0.15)
    """Share of characters in 5-grams that occur more than once, each character counted once."""
    duplicate_6_grams: float = share(0.14)
    """The same for 6-grams."""
    duplicate_7_grams: float = share(0.13)
    """The same for 7-grams."""
    duplicate_8_grams: float = share(0.12)
    """The same for 8-grams."""
    duplicate_9_grams: float = share(0.11)
    """The same for 9-grams."""
    duplicate_10_grams: float = share(0.10)
    """The same for 10-grams."""

    def find(self, text: str) -> Drop | None:
        """Compare lines and paragraphs, then n-grams from short to long."""
        paragraphs = [p.strip() for p in PARAGRAPH_END.split(text)]
        for name, parts in (("line", filled_lines(text)), ("paragraph", paragraphs)):
            count, characters = duplicates(parts)
            if count > (limit := getattr(self, f"duplicate_{name}s")):
                return Drop(f"duplicate {name}s over {limit:g}")
            if characters > (limit := getattr(self, f"duplicate_{name}_characters")):
                return Drop(f"characters in duplicate {name}s over {limit:g}")
        words = text.split()
        if len(words) < 2:
            return None
        for kind, n, value in repeated_ngrams(words):
            if value > (limit := getattr(self, f"{kind}_{n}_grams")):
                return Drop(f"{kind} {n}-grams over {limit:g}")
        return None


def filled_lines(text: str) -> list[str]:
    """Lines that are not blank, without the white space around them."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def duplicates(parts: Sequence[str]) -> tuple[float, float]:
    """Share of the parts, and of their characters, that repeat an earlier part."""
    seen = Counter(parts)
    if len(seen) == len(parts):
        return 0.0, 0.0
    characters = sum(map(len, parts))
    again = sum(len(part) * (count - 1) for part, count in seen.items() if count > 1)
    return 1 - len(seen) / len(parts), again / characters if characters else 0.0


def repeated_ngrams(words: Sequence[str]) -> Iterator[tuple[str, int, float]]:
    """Shares of the characters of the words: (top, n, share) for n = 2..4, (duplicate, n, share)
    for n = 5..10; those of n-grams that are nowhere repeated are left out, being 0.

    The top n-gram is the most frequent one, of several the one with most characters, of those the
    earliest. Both shares count the characters that the n-grams cover, those in overlaps once.
    """
    hashes = hash_words(words)
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    bounds = np.concatenate(([0], np.cumsum(lengths)))  # character at which each word starts
    starts, grams = np.arange(len(words)), hashes
    for n in range(2, 11):
        # Where an n-gram is repeated, so are the two (n-1)-grams in it: only those are looked at.
        chosen = np.flatnonzero(starts[1:] - starts[:-1] == 1)
        starts = starts[chosen]
        grams = extend_ngrams(grams[chosen], hashes[starts + (n - 1)])
        values, counts = _repeated(grams)
        if not len(values):
            return
        place = values.searchsorted(grams)
        place[place == len(values)] = 0
        kept = np.flatnonzero(values[place] == grams)
        starts, grams, place = starts[kept], grams[kept], place[kept]
        if n >= 5:
            yield "duplicate", n, _covered(starts, bounds, n)
        else:
            most = np.flatnonzero(counts[place] == counts.max())
            characters = bounds[starts[most] + n] - bounds[starts[most]]
            top = place[most[characters.argmax()]]
            yield "top", n, _covered(starts[place == top], bounds, n)


Indices = NDArray[np.int64]


def _repeated(values: Hashes) -> tuple[Hashes, Indices]:
    """The values that occur more than once, ascending, and how often each does."""
    ordered = np.sort(values)
    again = ordered[1:][ordered[1:] == ordered[:-1]]  # each value once less often than it occurs
    first = np.flatnonzero(np.concatenate((again[:1] == again[:1], again[1:] != again[:-1])))
    return again[first], np.diff(first, append=len(again)) + 1


def _covered(starts: Indices, bounds: Indices, n: int) -> float:
    """Share of the characters that n-grams at ascending places cover."""
    stops = bounds[starts + n]
    covered = stops - bounds[starts]
    covered[1:] = np.minimum(covered[1:], stops[1:] - stops[:-1])  # less what the one before covers
    return float(covered.sum() / bounds[-1])
