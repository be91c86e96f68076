"""Token ids of texts word by word, each different word given to the `tokenizers` library once.

A byte-level BPE of GPT-2's kind cuts a text into words by a pattern and merges bytes inside them
only. The library spends most of its time on that pattern and on words that it has had before.
Here Python's `re` finds the words, and a dict of bounded size knows their ids, which are the
library's: three to four times as fast for English, and never slower than half.

`re` has no classes of Unicode. So a run without white space that holds a character beyond ASCII is
taken as one word, which the library cuts on; a text with white space beyond ASCII, which could
join runs, is left to the library as a whole.
"""

import json
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from data.tokenizer import Tokenizer

MOST_BYTES = 1 << 26
"""Of the words that are remembered and their ids, COST for the objects of each included."""
COST = 150
LONGEST_WORD = 1024
"""Characters of a word that a tokenizer is trained on. The library's time for one grows with the
square of its length: 4 MB of letters take 11 s in words of this length, 44 s in words of 16,384."""
# The pattern of GPT-2 (openai/gpt-2, encoder.py) for ASCII; \t-\r and the space are its \s.
WORDS = (
    r" ?[A-Za-z]+|'(?:[stmd]|re|ve|ll)| ?[0-9]+| ?[^\t-\r A-Za-z0-9]+"
    r"|[\t-\r ]+(?![^\t-\r ])|[\t-\r ]+"
)
# Tried where a run may begin only: elsewhere each word of a long run would look for its end.
RUN = r"[^\t-\r \x80-\U0010ffff]*[^\x00-\x7f][^\t-\r ]*"
RUNS = rf" {RUN}|(?<![^\t-\r ]){RUN}|{WORDS}"
in_ascii, in_unicode = re.compile(WORDS).findall, re.compile(RUNS).findall
foreign_space = re.compile(r"[^\S\x00-\x7f]").search


class WordIds(dict[str, bytes]):
    """Words to their ids, uint32 in a row; a word that is missing is encoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Empty; `tokenizer` is one that `splits_as_gpt2`."""
        self._tokenizer, self._left = tokenizer, MOST_BYTES

    def __missing__(self, word: str) -> bytes:
        """Encode and remember; what was remembered is forgotten when it is too much."""
        ids = array("I", self._tokenizer.encode(word)).tobytes()
        self._left -= len(word) + len(ids) + COST
        if self._left < 0:
            self.clear()
            self._left = MOST_BYTES
        self[word] = ids
        return ids

    def of_text(self, text: str) -> bytes:
        """The ids of a text, as the tokenizer's `encode` gives them; uint32 in a row."""
        if text.isascii():
            words = in_ascii(text)
        elif foreign_space(text):
            return array("I", self._tokenizer.encode(text)).tobytes()
        else:
            words = in_unicode(text)
        return b"".join(map(self.__getitem__, words))


def splits_as_gpt2(tokenizer: Tokenizer) -> bool:
    """Whether the words of GPT-2's pattern are encoded one by one, and nothing else is done."""
    content: dict[str, Any] = json.loads(tokenizer.json)
    split = content.get("pre_tokenizer") or {}
    added = content.get("added_tokens") or ()
    return (
        tokenizer.bpe is not None
        and content["model"].get("type") == "BPE"
        and not content["model"].get("dropout")
        and content.get("normalizer") is None
        and split.get("type") == "ByteLevel"
        and split.get("use_regex", True)
        and not split.get("add_prefix_space", True)
        and all(token.get("special") for token in added)  # others are found in plain text
    )


class ShortWords:
    """Texts to train a tokenizer on, cut inside of words that are longer than LONGEST_WORD.

    Attributes:
        cut: how many words were too long so far.
    """

    # Of the classes that the pattern keeps together. In a text that has white space and other
    # characters side by side in each half of such a length there is none: that is seen quickly.
    _classes = (r"[^\W\d_]", r"\d", r"(?:[^\w\s]|_)", r"\s")
    _too_long = re.compile("|".join(f"{c}{{{LONGEST_WORD}}}(?={c})" for c in _classes))
    _side_by_side = re.compile(r"\s\S|\S\s")

    def __init__(self, texts: Iterable[str]) -> None:
        """Nothing is read yet."""
        self._texts, self.cut = texts, 0

    def __iter__(self) -> Iterator[str]:
        """The texts, or their pieces."""
        half = LONGEST_WORD // 2
        for text in self._texts:
            starts = range(0, len(text) - half + 1, half)
            if all(self._side_by_side.search(text, at, at + half) for at in starts):
                yield text
                continue
            at = 0
            for found in self._too_long.finditer(text):
                yield text[at : found.end()]
                self.cut += found.start() > at or not at
                at = found.end()
            yield text[at:]
