"""Masked tokens in texts, filled by a masked model.

T tokens, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from data import Tokenizer
from data.tokenizer import MASK
from models.bert import Bert

IN_FONTS = 0x530
"""Characters below are Latin, Greek and Cyrillic, which matplotlib's own font has."""


def shown(token: str) -> str:
    """A token on one line without the space before it; what a usual font lacks is escaped."""
    text = token.strip(" ") or "(space)"
    return "".join(
        own if own.isprintable() and ord(own) < IN_FONTS else own.encode("unicode_escape").decode()
        for own in text
    )


@dataclass(frozen=True)
class Filling:
    """What may stand for a mask, the likeliest first."""

    tokens: tuple[str, ...]
    chances: tuple[float, ...]

    @property
    def text(self) -> str:
        """On one line."""
        pairs = zip(self.tokens, self.chances, strict=True)
        return ", ".join(f"{shown(token)} {chance:.0%}" for token, chance in pairs)


def masked_row(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text in which <mask> stands for one token, with the space before it.

    Raises:
        ValueError: the tokenizer has no such token, or the text no mask.
    """
    if tokenizer.mask is None:
        raise ValueError("the tokenizer of this model has no token for what is masked")
    parts = text.split(MASK)
    if len(parts) == 1:
        raise ValueError(
            f"{text[:40]!r} has no {MASK} to fill; try 'Return the {MASK} of the list'"
        )
    row: list[int] = []
    for part in parts[:-1]:
        # A token of text begins with the space before it: the masked one does, too.
        row += [*tokenizer.encode(part.removesuffix(" ")), tokenizer.mask]
    return [*row, *tokenizer.encode(parts[-1])]


@torch.inference_mode()
def fill(
    model: Bert, tokenizer: Tokenizer, row: Sequence[int], count: int
) -> tuple[list[Filling], str]:
    """The `count` likeliest tokens for each mask of a row, and the text with the likeliest.

    Args:
        model: in evaluation mode.
        tokenizer: of the model.
        row: as `masked_row` gives it, not longer than the model.
        count: tokens of each filling.
    """
    chances = model(torch.tensor([list(row)]))[0].float().softmax(-1)  # (T, V)
    chances[:, [tokenizer.mask, tokenizer.end_of_text]] = 0.0  # no text has them
    filled, found = list(row), []
    for place in _masks(tokenizer, row):
        best = chances[place].topk(min(count, chances.shape[1]))
        tokens = best.indices.tolist()
        filled[place] = tokens[0]
        texts = tuple(tokenizer.decode([token]) for token in tokens)
        found.append(Filling(texts, tuple(best.values.tolist())))
    return found, tokenizer.decode(filled)


def _masks(tokenizer: Tokenizer, row: Sequence[int]) -> Iterator[int]:
    return (place for place, token in enumerate(row) if token == tokenizer.mask)
