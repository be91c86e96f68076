"""From text to numbered words: counted, rare ones left out, frequent ones thinned, published.

N words of a split as they stand in the text, V different words.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.config import SourceConfig
from data.order import mix, words
from data.sources import read_records, units_of
from orchestrator.stages.embed.stage import EmbedConfig
from orchestrator.stages.examples.published import Published, open_arrays, publish_arrays
from orchestrator.stages.examples.splitting import is_held_out
from orchestrator.stages.pooling import words_of

VERSION = 1  # of what is in a published folder
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class PublishedWords(Published):
    """Names the published words of a job."""

    vocabulary: tuple[str, ...]
    """The V words, the most frequent first."""


def read_documents(stage: EmbedConfig) -> Iterator[list[str]]:
    """The words of each document. Raises ValueError (DataError) for what can't be read."""
    source = SourceConfig()
    if stage.data is not None:
        source = SourceConfig(source="text", path=stage.data)
    for unit in units_of(source):
        for record in read_records(source, unit):
            for text in record.texts:
                yield words_of(text)


def publish_words(stage: EmbedConfig, seed: int, cache: Path | None) -> PublishedWords:
    """Number, thin and publish the words of the job's text, unless that has been done.

    Args:
        stage: its settings.
        seed: of the cut into splits and of what is thinned out.
        cache: root of the cache to publish in. None: only say what would be published.

    Raises:
        ValueError: there are too few words.
    """
    documents = [own for own in read_documents(stage) if own]
    counts = Counter(word for own in documents for word in own)
    kept = [item for item in counts.items() if item[1] >= stage.min_count]
    vocabulary = sorted(kept, key=lambda item: (-item[1], item[0]))[: stage.words]
    if len(vocabulary) < 2:
        raise ValueError(
            f"stage.min_count={stage.min_count} and stage.words={stage.words} leave "
            f"{len(vocabulary)} of {len(counts):,} words; give more text, or try stage.min_count=1"
        )
    number = {word: index for index, (word, _) in enumerate(vocabulary)}
    frequency = np.array([count for _, count in vocabulary], dtype=np.int64)
    arrays: dict[str, NDArray[Any]] = {"counts": frequency}
    held_out = np.array(
        [is_held_out(" ".join(own), stage.validation_fraction, seed) for own in documents]
    )
    for split, chosen in zip(SPLITS, (~held_out, held_out), strict=True):
        own = [documents[place] for place in np.flatnonzero(chosen)]
        numbers = [[number[word] for word in each if word in number] for each in own]
        flat = np.array([n for each in numbers for n in each], dtype=np.int32)
        document = np.repeat(np.arange(len(numbers)), [len(each) for each in numbers])
        stays = thinned(flat, frequency, stage.subsample, f"{split} {seed}")
        if stays.sum() < 2:
            raise ValueError(
                f"stage.validation_fraction={stage.validation_fraction:g} leaves "
                f"{stays.sum()} words of {len(documents)} documents for {split}; give more "
                "documents, or another fraction or seed"
            )
        arrays[f"{split}-words"] = flat[stays]
        arrays[f"{split}-documents"] = document[stays].astype(np.int32)
    names = tuple(word for word, _ in vocabulary)
    fingerprint = publish_arrays(arrays, {"version": VERSION, "words": names}, cache)
    train, validation = (len(arrays[f"{split}-words"]) for split in SPLITS)
    return PublishedWords(fingerprint, train, validation, names)


def thinned(
    numbers: NDArray[np.int32], counts: NDArray[np.int64], threshold: float, key: str
) -> NDArray[np.bool_]:
    """Which words of a text stay: bool (N,).

    A word of frequency f stays with the probability sqrt(threshold / f), at most 1.
    """
    frequency = counts / counts.sum()
    chances = np.minimum(1.0, np.sqrt(threshold / frequency))
    stays: NDArray[np.bool_] = uniforms(key, np.arange(len(numbers))) < chances[numbers]
    return stays


def uniforms(key: str, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Numbers in [0, 1) for places of any shape, each a function of the key and its place alone."""
    (own,) = words(key.encode(), 1)
    bits = mix(mix(places.astype(np.uint64)) + own)
    return (bits >> np.uint64(11)).astype(np.float64) / 2**53


def open_words(
    published: PublishedWords, split: str, cache: Path
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Words (N,) and documents (N,) of a split, and the counts (V,); every rank calls it.

    Raises:
        NotOnThisHost: the folder is not there.
    """
    names = (f"{split}-words", f"{split}-documents", "counts")
    numbers, documents, counts = open_arrays(published.fingerprint, cache, *names)
    return numbers, documents, counts
