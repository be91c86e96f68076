"""The splits of a job's pairs: cut by what they say, tokenized, published once, opened by ranks.

N pairs of a split, B pairs of a micro-batch, S source and T target tokens of the longest of them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import Tokenizer, TokenizerConfig
from data.order import Ids
from data.sources.pair import Pair
from data.tokenizer import load_or_train
from orchestrator.record.checkpoints.manifest import TOKENIZER
from orchestrator.stages.examples.published import Published, publish_arrays
from orchestrator.stages.examples.ragged import joined, padded
from orchestrator.stages.examples.splitting import check_splits, is_held_out

VERSION = 1  # of what is in a published folder
TEXTS = "validation.json"
ARRAYS = ("source", "source_ends", "target", "target_ends", "kinds")


@dataclass(frozen=True)
class PublishedPairs(Published):
    """Names the published pairs of a job."""

    kinds: tuple[str, ...]
    vocab_size: int
    tokens: float
    """Mean of the tokens of a text."""
    too_long: int
    """Pairs left out because the model has no room for them."""

    def texts(self, cache: Path) -> list[tuple[str, str, str]]:
        """Source, target and kind of the validation split, as they were read."""
        found = json.loads((self.folder(cache) / TEXTS).read_text(encoding="utf-8"))
        return [(source, target, kind) for source, target, kind in found]


@dataclass(frozen=True)
class Batch:
    """Pairs of one forward pass."""

    source: NDArray[np.int64]
    """(B, S), padded behind its end."""
    source_mask: NDArray[np.bool_]
    """(B, S): what is no padding."""
    target: NDArray[np.int64]
    """(B, T+1): inputs are [:, :-1], targets [:, 1:]."""
    loss_mask: NDArray[np.bool_]
    """(B, T): targets that count."""
    kinds: NDArray[np.int64]
    """(B,)."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""

    @property
    def weight(self) -> int:
        """Target tokens that count."""
        return int(self.loss_mask.sum())


@dataclass(frozen=True)
class Split:
    """The pairs of a split; tokens of all texts stand end to end."""

    source: NDArray[np.int32]
    source_ends: NDArray[np.int64]
    """(N,): where each source ends, with the end of text."""
    target: NDArray[np.int32]
    target_ends: NDArray[np.int64]
    kinds: NDArray[np.int64]
    """(N,)."""
    end: int
    """The token that ends a text."""
    start: int
    """The token that a target begins behind."""

    def __len__(self) -> int:
        """N."""
        return len(self.kinds)

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The micro-batch of the pairs at `rows` (B,); see `Split` in stages/examples."""
        source, source_mask = padded(self.source, self.source_ends, rows, self.end)
        target, mask = padded(self.target, self.target_ends, rows, self.end)
        begin = np.full((len(rows), 1), self.start)
        return Batch(
            source,
            source_mask,
            np.concatenate([begin, target], 1),
            mask & counted[:, None],
            self.kinds[rows],
            sample_ids,
        )


def publish_pairs(
    pairs: Iterable[Pair],
    source: str,
    tokenizer: TokenizerConfig,
    *,
    validation_fraction: float,
    seed: int,
    longest: int,
    cache: Path,
    known: Tokenizer | None = None,
) -> PublishedPairs:
    """Cut, tokenize and publish pairs, unless that has been done.

    Args:
        pairs: all of them; one that comes again is taken once.
        source: where they come from, for messages.
        tokenizer: of both sides; a bpe is trained on the training split.
        validation_fraction: share of the keys that are held out.
        seed: of the cut.
        longest: most tokens of a text with its end; longer ones are left out and counted.
        cache: root of the cache.
        known: the tokenizer of the weights to start from, in place of the settings.

    Raises:
        ValueError: a split would be empty.
    """
    splits: dict[str, list[Pair]] = {"train": [], "validation": []}
    for pair in dict.fromkeys(pairs):
        kept_apart = pair.key is not None and is_held_out(pair.key, validation_fraction, seed)
        splits["validation" if kept_apart else "train"].append(pair)
    texts = [text for pair in splits["train"] for text in (pair.source, pair.target)]
    made = known or load_or_train(tokenizer, lambda: iter(texts))
    too_long, kinds = 0, sorted({pair.kind for own in splits.values() for pair in own})
    arrays: dict[str, NDArray[Any]] = {}
    for name, own in splits.items():
        sides = [_encode(made, [pair.source for pair in own])]
        sides.append(_encode(made, [pair.target for pair in own]))
        fits = [max(map(len, both)) <= longest for both in zip(*sides, strict=True)]
        too_long += fits.count(False)
        splits[name] = list(compress(own, fits))
        for side, rows in zip(("source", "target"), sides, strict=True):
            kept = list(compress(rows, fits))
            arrays[f"{name}-{side}"], arrays[f"{name}-{side}_ends"] = joined(kept)
        number = [kinds.index(pair.kind) for pair in splits[name]]
        arrays[f"{name}-kinds"] = np.array(number, dtype=np.int64)
    count = {name: len(own) for name, own in splits.items()}
    check_splits(
        count,
        too_long,
        source=source,
        kind="pair",
        limit=f"model.max_positions={longest}",
        fraction=validation_fraction,
    )
    held_out = [[pair.source, pair.target, pair.kind] for pair in splits["validation"]]
    files = {TOKENIZER: made.json, TEXTS: json.dumps(held_out)}
    fingerprint = publish_arrays(arrays, {"version": VERSION, "kinds": kinds}, cache, files)
    tokens = sum(len(arrays[f"train-{side}"]) for side in ("source", "target"))
    return PublishedPairs(
        fingerprint,
        count["train"],
        count["validation"],
        tuple(kinds),
        made.vocab_size,
        tokens / (2 * count["train"]),
        too_long,
    )


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of each text with the end of text."""
    return [[*tokenizer.encode(text), tokenizer.end_of_text] for text in texts]
