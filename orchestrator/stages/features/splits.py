"""The splits of a job's examples: cut, scaled, published once or drawn by number, opened by ranks.

N examples of a split, F features, B of them at a time, O numbers to tell.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.order import Ids, Words, mix, words
from orchestrator.stages.examples.published import folder_of, open_arrays, publish_arrays
from orchestrator.stages.features import points
from orchestrator.stages.features.section import FeaturesConfig
from orchestrator.stages.features.tables import Examples, Labels, Numbers

VERSION = 2  # of what is in a published folder
DRAWN_FOR_VALIDATION = 500
SHOWN = 300  # examples in a picture of the plane
FIRST_FOR_VALIDATION = 2**62
"""The number of the first drawn example that is for validation: no stream comes so far."""

Targets = Labels | NDArray[np.float32]
"""int64 (N,) of classes, or float32 (N, O) of a regression."""


@dataclass(frozen=True)
class Batch:
    """Examples of one forward pass."""

    features: NDArray[np.float32]
    """(B, F)."""
    labels: Targets
    """(B,) or (B, O)."""
    sample_ids: Ids
    """(B,): positions in the run; in an evaluation, places in the split."""
    counted: NDArray[np.bool_]
    """(B,): which are examples, and no filling."""

    @property
    def weight(self) -> int:
        """Examples."""
        return int(self.counted.sum())


class Split(ABC):
    """The examples of a split; see `Split` in stages/examples."""

    @abstractmethod
    def __len__(self) -> int:
        """N."""

    @abstractmethod
    def take(self, rows: Ids) -> tuple[NDArray[np.float32], Targets]:
        """Scaled features (B, F) and what is to be told (B, ...) of the examples in these rows."""

    def batch(self, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_]) -> Batch:
        """The micro-batch of the examples in these rows (B,)."""
        return Batch(*self.take(rows), sample_ids, counted)


@dataclass(frozen=True)
class HeldSplit(Split):
    """Examples in memory, or mapped into it."""

    features: NDArray[np.float32]
    """(N, F), scaled."""
    labels: Targets
    """(N,) or (N, O)."""

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def take(self, rows: Ids) -> tuple[NDArray[np.float32], Targets]:
        """Of these rows."""
        return self.features[rows], self.labels[rows]


@dataclass(frozen=True)
class Standard:
    """How features become what the model sees: (x - mean) / std, or numbers in their place."""

    names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """1 where a feature has one value throughout."""
    target_mean: float = 0.0
    """Of a regression, whose targets are scaled in the same way."""
    target_std: float = 1.0

    def scaled(self, features: Numbers) -> NDArray[np.float32]:
        """Features (n, F) as the model sees them; one that is missing has the mean."""
        mean, std = np.array(self.mean, features.dtype), np.array(self.std, features.dtype)
        seen: NDArray[np.float32] = ((features - mean) / std).astype(np.float32)
        return np.nan_to_num(seen, copy=False, nan=0.0)


@dataclass(frozen=True)
class Inputs:
    """What every rank of a job on examples gets; it pickles."""

    fingerprint: str
    """sha256 of all that tells these examples from others."""
    train: int
    """Examples."""
    validation: int
    standard: Standard
    classes: tuple[str, ...] | None
    """Their names. None: a regression."""
    shape: tuple[int, int] | None = None
    """Of pictures: rows and columns of pixels."""
    plane: tuple[float, float] | None = None
    """From where to where x and y reach, if the features are made of these coordinates."""

    @property
    def outputs(self) -> int:
        """Numbers that a model of them gives."""
        return 1 if self.classes is None else len(self.classes)

    def files(self, cache: Path) -> tuple[Path, ...]:
        """What the ranks open under the root of a cache."""
        return ()

    def shown(self, cache: Path) -> tuple[points.Points, Labels]:
        """Points (n, 2) of some training examples in the plane, and their classes (n,)."""
        raise NotImplementedError

    def open(self, split: str, cache: Path) -> Split:
        """A split, `train` or `validation`; every rank calls it.

        Raises:
            NotOnThisHost: it is not there.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class PublishedExamples(Inputs):
    """Names the published examples of a job; says nothing of where a cache is."""

    def folder(self, cache: Path) -> Path:
        """Where they are under the root of a cache."""
        return folder_of(self.fingerprint, cache)

    def files(self, cache: Path) -> tuple[Path, ...]:
        """The folder."""
        return (self.folder(cache),)

    def shown(self, cache: Path) -> tuple[points.Points, Labels]:
        """Points of the first examples."""
        split, standard = self.open("train", cache), self.standard
        raw = split.features[:SHOWN] * np.array(standard.std) + np.array(standard.mean)
        columns = [standard.names.index(name) for name in ("x", "y")]
        return raw[:, columns], split.labels[:SHOWN].astype(np.int64)

    def open(self, split: str, cache: Path) -> HeldSplit:
        """A split, mapped into memory."""
        names = (f"{split}-{what}" for what in ("features", "labels"))
        return HeldSplit(*open_arrays(self.fingerprint, cache, *names))


@dataclass(frozen=True)
class DrawnExamples(Inputs):
    """Names examples that are drawn by their number, when they are due."""

    problem: str = ""
    seed: int = 0
    noise: float = 0.0

    def shown(self, cache: Path) -> tuple[points.Points, Labels]:
        """Points of the first examples."""
        numbers = np.arange(min(self.train, SHOWN))
        drawn, told = points.draw(self.problem, self.seed, self.noise, numbers)
        return drawn, told.astype(np.int64)

    def open(self, split: str, cache: Path) -> Split:
        """A split; that for validation is drawn at once."""
        if split == "train":
            return DrawnSplit(self)
        rows = np.arange(FIRST_FOR_VALIDATION, FIRST_FOR_VALIDATION + self.validation)
        return HeldSplit(*DrawnSplit(self).take(rows))


@dataclass(frozen=True)
class DrawnSplit(Split):
    """Examples that are nowhere before they are asked for."""

    drawn: DrawnExamples

    def __len__(self) -> int:
        """N."""
        return self.drawn.train

    def take(self, rows: Ids) -> tuple[NDArray[np.float32], Targets]:
        """Draw these."""
        own = self.drawn
        drawn, told = points.draw(own.problem, own.seed, own.noise, rows)
        features = own.standard.scaled(points.features(own.standard.names, drawn))
        if own.classes is not None:
            return features, told.astype(np.int64)
        scaled = (told - own.standard.target_mean) / own.standard.target_std
        return features, scaled.astype(np.float32)[:, None]


def drawn_examples(stage: FeaturesConfig, seed: int, *, classes: bool) -> DrawnExamples:
    """The examples of a problem in the plane; nothing is made but a look at some, for scaling.

    Raises:
        ValueError: the problem has no such feature.
    """
    names = tuple(stage.features or ("x", "y"))
    points.check_features(names)
    sample = np.arange(min(stage.examples, 10_000))
    coordinates, told = points.draw(stage.data, seed, stage.noise, sample)
    standard = _standard(
        names, points.features(names, coordinates), None if classes else told, stage.scaling
    )
    about = (VERSION, stage.data, seed, stage.noise, stage.examples, asdict(standard))
    return DrawnExamples(
        sha256(json.dumps(about).encode()).hexdigest(),
        stage.examples,
        DRAWN_FOR_VALIDATION,
        standard,
        ("0", "1") if classes else None,
        plane=(-points.REACH, points.REACH),
        problem=stage.data,
        seed=seed,
        noise=stage.noise,
    )


def publish_examples(
    examples: Examples,
    validation_fraction: float,
    seed: int,
    cache: Path | None,
    scaling: str = "standard",
) -> PublishedExamples:
    """Cut, scale and publish the examples, unless that has been done.

    Args:
        examples: all of them.
        validation_fraction: share of the validation split, where they have none of their own.
        seed: of the cut.
        cache: root of the cache to publish in. None: only say what would be published.
        scaling: see FeaturesConfig.

    Raises:
        ValueError: a split would be empty, or the training split has a single label.
    """
    if examples.split is not None:
        train, held_out = examples.split
    else:
        chosen = row_hashes(examples, seed) < np.uint64(int(validation_fraction * 2**64))
        train, held_out = np.flatnonzero(~chosen), np.flatnonzero(chosen)
    targets = examples.targets
    few = examples.classes is not None and len(np.unique(targets[train])) < 2
    if not len(train) or not len(held_out) or few:
        both = "both need some" + (", with two labels to train on" if few else "")
        raise ValueError(
            f"stage.validation_fraction={validation_fraction} cuts the {len(targets)} examples of "
            f"{examples.source} into {len(train)} for training and {len(held_out)} for validation, "
            f"and {both}; give more examples, or another fraction or seed"
        )
    told = targets[train] if examples.classes is None else None
    standard = _standard(examples.names, examples.features[train], told, scaling)
    arrays: dict[str, NDArray[Any]] = {}
    for name, rows in (("train", train), ("validation", held_out)):
        arrays[f"{name}-features"] = standard.scaled(examples.features[rows])
        arrays[f"{name}-labels"] = targets[rows]
        if examples.classes is None:
            scaled = (targets[rows] - standard.target_mean) / standard.target_std
            arrays[f"{name}-labels"] = scaled.astype(np.float32)
    about = {"version": VERSION, "classes": examples.classes, **asdict(standard)}
    return PublishedExamples(
        publish_arrays(arrays, about, cache),
        len(train),
        len(held_out),
        standard,
        examples.classes,
        examples.shape,
        examples.plane,
    )


def _standard(
    names: tuple[str, ...], features: Numbers, told: Numbers | Labels | None, scaling: str
) -> Standard:
    """The scaling of features (N, F) of the training split, and of what is told of them (N, ...).

    A number to tell is scaled as the features are, but for `unit`, which leaves it.
    """
    if scaling == "standard":
        mean, std = _mean_and_std(features)
        own = (0.0, 1.0) if told is None else tuple(float(x[0]) for x in _mean_and_std(told))
        return Standard(names, tuple(mean.tolist()), tuple(std.tolist()), *own)
    lacks = np.isnan(features).any(0)
    zero = np.where(lacks, np.nan_to_num(_mean_and_std(features)[0]), 0.0) if lacks.any() else None
    if zero is not None and zero.any():
        raise ValueError(
            f"stage.scaling={scaling} keeps zero where it is, and stage.missing=mean puts the mean "
            "there; try stage.scaling=standard, or stage.missing=drop"
        )
    largest = float(np.abs(features).max()) if scaling == "unit" else 1.0
    count = len(names)
    return Standard(names, (0.0,) * count, (largest or 1.0,) * count)


def _mean_and_std(numbers: Numbers | Labels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each column, without what is missing; the std is 1 where there is one value throughout."""
    columns = numbers.reshape(len(numbers), -1)
    mean: NDArray[np.float64] = np.nanmean(columns, 0, dtype=np.float64)
    std: NDArray[np.float64] = np.nanstd(columns, 0, dtype=np.float64)
    std[std <= 1e-12 * np.abs(mean)] = 1.0
    return mean, std


def row_hashes(examples: Examples, seed: int) -> Words:
    """A hash (N,) of what is in each row; equal rows have equal ones, wherever they stand."""
    (key,) = words(f"split {seed}".encode(), 1)
    columns = [*examples.features.T, *examples.targets.reshape(len(examples.targets), -1).T]
    hashed = np.full(len(examples.targets), key, dtype=np.uint64)
    for column in columns:
        numbers = np.ascontiguousarray(column + 0.0, dtype=np.float64)  # + 0.0: -0.0 is 0.0
        bits = numbers.view(np.uint64)
        hashed = mix(hashed ^ mix(bits))
    return hashed
