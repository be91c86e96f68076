"""The splits of a job's examples: cut by content, standardised, published once, opened by ranks.

N examples of a split, F features, B examples of a micro-batch.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.order import Ids, Words, mix, words
from orchestrator.stages.classify.tables import Examples, Labels
from orchestrator.stages.examples.published import folder_of, open_arrays, publish_arrays

VERSION = 1  # of what is in a published folder


@dataclass(frozen=True)
class Split:
    """The examples of a split."""

    features: NDArray[np.float32]
    """(N, F), standardised."""
    labels: Labels
    """(N,)."""

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> "Batch":
        """The micro-batch of the examples at `rows` (B,); see `Split` in stages/examples."""
        return Batch(self.features[rows], self.labels[rows], sample_ids, counted)


@dataclass(frozen=True)
class Standard:
    """How features become what the model sees: (x - mean) / std, of the training split."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """1 where a feature has one value throughout."""


@dataclass(frozen=True)
class PublishedExamples:
    """Names the published examples of a job; it pickles, and says nothing of where a cache is."""

    fingerprint: str
    """sha256 of all that is in the folder of this name."""
    train: int
    """Examples."""
    validation: int
    standard: Standard

    def folder(self, cache: Path) -> Path:
        """Where they are under the root of a cache."""
        return folder_of(self.fingerprint, cache)


def publish_examples(
    examples: Examples, validation_fraction: float, seed: int, cache: Path | None
) -> PublishedExamples:
    """Cut, standardise and publish the examples, unless that has been done.

    Args:
        examples: all of them.
        validation_fraction: share of the validation split.
        seed: of the cut.
        cache: root of the cache to publish in. None: only say what would be published.

    Raises:
        ValueError: a split would be empty, or the training split has a single label.
    """
    chosen = row_hashes(examples, seed) < np.uint64(int(validation_fraction * 2**64))
    train, held_out = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    if not len(train) or not len(held_out) or len(np.unique(examples.labels[train])) < 2:
        raise ValueError(
            f"stage.validation_fraction={validation_fraction} cuts the {len(chosen)} examples of "
            f"{examples.source} into {len(train)} for training and {len(held_out)} for validation, "
            "and both need some, with two labels to train on; give more examples, or another "
            "fraction or seed"
        )
    mean, std = examples.features[train].mean(0), examples.features[train].std(0)
    std[std <= 1e-12 * np.abs(mean)] = 1.0
    standard = Standard(examples.names, tuple(mean.tolist()), tuple(std.tolist()))
    arrays: dict[str, NDArray[np.float32] | Labels] = {}
    for name, rows in (("train", train), ("validation", held_out)):
        arrays[f"{name}-features"] = ((examples.features[rows] - mean) / std).astype(np.float32)
        arrays[f"{name}-labels"] = examples.labels[rows]
    about = {"version": VERSION, **asdict(standard)}
    fingerprint = publish_arrays(arrays, about, cache)
    return PublishedExamples(fingerprint, len(train), len(held_out), standard)


def row_hashes(examples: Examples, seed: int) -> Words:
    """A hash (N,) of what is in each row; equal rows have equal ones, wherever they stand."""
    (key,) = words(f"split {seed}".encode(), 1)
    columns = [*examples.features.T, examples.labels.astype(np.float64)]
    hashed = np.full(len(examples.labels), key, dtype=np.uint64)
    for column in columns:
        bits = np.ascontiguousarray(column + 0.0).view(np.uint64)  # + 0.0: -0.0 is 0.0
        hashed = mix(hashed ^ mix(bits))
    return hashed


def open_split(published: PublishedExamples, split: str, cache: Path) -> Split:
    """A split, `train` or `validation`, mapped into memory; every rank calls it.

    Raises:
        NotOnThisHost: the folder is not there.
    """
    names = (f"{split}-{what}" for what in ("features", "labels"))
    return Split(*open_arrays(published.fingerprint, cache, *names))


@dataclass(frozen=True)
class Batch:
    """Examples of one forward pass."""

    features: NDArray[np.float32]
    """(B, F)."""
    labels: Labels
    """(B,)."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""
    counted: NDArray[np.bool_]
    """(B,): which are examples, and no filling."""

    @property
    def weight(self) -> int:
        """Examples."""
        return int(self.counted.sum())
