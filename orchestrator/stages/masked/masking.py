"""Which tokens of a sequence are to be told, and what stands in their place.

All of it is a function of the seed, the number of the sample and the place in it: an epoch later
others are masked, and a resumed run masks the same.

B sequences, T tokens, V vocabulary.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from data import Batch, Tokenizer
from data.order import Words, mix, words
from data.packing import document_ids
from orchestrator.config import JobConfig
from orchestrator.stages.masked.stage import MaskedConfig

MASKED, RANDOM = 0.8, 0.1  # of the tokens to be told; the others stay as they are
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MaskedBatch(Batch):
    """A micro-batch whose `tokens` (B, T) are as the model sees them, T of them."""

    targets: Ints | None = None
    """(B, T): the tokens as they were; `loss_mask` says which are to be told."""


class Masking:
    """Masks the tokens of batches."""

    def __init__(
        self, tokenizer: Tokenizer, fraction: float, seed: int, *, whole_words: bool
    ) -> None:
        """Prepare to mask a fraction of the tokens; with `whole_words` all of a word or none.

        Raises:
            ValueError: the tokenizer has no token for what is masked.
        """
        if tokenizer.mask is None:
            raise ValueError(
                "stage=masked needs a token for what is masked, such as <mask> or [MASK], and the "
                "tokenizer has none; try tokenizer=bpe_mask"
            )
        self.mask, self.end = tokenizer.mask, tokenizer.end_of_text
        self.V, self.fraction = tokenizer.vocab_size, fraction
        self.choose, self.how, self.other = words(f"masking {seed}".encode(), 3)
        self.edges = _edges(tokenizer) if whole_words else None

    def __call__(self, batch: Batch, *, all_masked: bool = False) -> MaskedBatch:
        """The batch with some tokens to be told; the first of a row is of the row before.

        With `all_masked` each of them is masked: in an evaluation, where a token that stays would
        be told by copying it.
        """
        tokens = batch.tokens[:, 1:]  # (B, T)
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        units = places if self.edges is None else self._word_starts(tokens, places)
        chosen = self._uniform(self.choose, batch.sample_ids, units) < self.fraction
        chosen &= batch.loss_mask & (tokens != self.end) & (tokens != self.mask)
        how = self._uniform(self.how, batch.sample_ids, places)
        other = self._words(self.other, batch.sample_ids, places) % np.uint64(self.V)
        seen = np.where(chosen & (all_masked | (how < MASKED)), self.mask, tokens)
        swapped = (not all_masked) & chosen & (how >= MASKED) & (how < MASKED + RANDOM)
        seen = np.where(swapped, other.astype(np.int64), seen)
        documents = None if batch.documents is None else document_ids(tokens, self.end)
        masked = replace(batch, tokens=seen, loss_mask=chosen, documents=documents)
        return MaskedBatch(**vars(masked), targets=tokens)

    def _word_starts(self, tokens: Ints, places: Ints) -> Ints:
        """Where the word of each token (B, T) begins."""
        assert self.edges is not None
        begins, ends = self.edges
        goes_on = np.zeros(tokens.shape, dtype=np.bool_)
        goes_on[:, 1:] = begins[tokens[:, 1:]] & ends[tokens[:, :-1]]
        starts: Ints = np.maximum.accumulate(np.where(goes_on, 0, places), 1)
        return starts

    def _uniform(self, key: np.uint64, samples: Ints, places: Ints) -> NDArray[np.float64]:
        """Numbers in [0, 1), (B, T), one for each sample and place."""
        numbers = (self._words(key, samples, places) >> np.uint64(11)).astype(np.float64)
        return numbers * np.float64(2.0**-53)

    def _words(self, key: np.uint64, samples: Ints, places: Ints) -> Words:
        own = mix(samples.astype(np.uint64) ^ key)[:, None]
        return mix(own + places.astype(np.uint64))


def masking(config: JobConfig, tokenizer: Tokenizer) -> Masking:
    """The masking that a job asks for. Raises ValueError if the tokenizer has no mask."""
    own = config.section(MaskedConfig)
    return Masking(tokenizer, own.mask_fraction, config.seed, whole_words=own.whole_words)


def _edges(tokenizer: Tokenizer) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Of each token (V,): whether it begins inside of a word, and whether it ends in one."""
    texts = [tokenizer.decode([token]) for token in range(tokenizer.vocab_size)]
    begins = [text.removeprefix("##")[:1].isalnum() for text in texts]  # as WordPiece marks it
    ends = [text[-1:].isalnum() for text in texts]
    return np.array(begins), np.array(ends)
