"""The splits of a job's examples: cut by content, standardised, published once, opened by ranks.

N examples of a split, F features, B examples of a micro-batch.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.files import NotOnThisHost, publish
from data.order import Ids, Order, Words, mix, words
from orchestrator.stages.classify.tables import Examples, Labels

FOLDER = "examples"  # under the root of the cache
ABOUT = "about.json"
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
        return cache / FOLDER / self.fingerprint


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
    digest = sha256(json.dumps(about).encode())
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape}".encode())
        digest.update(array.tobytes())
    found = PublishedExamples(digest.hexdigest(), len(train), len(held_out), standard)
    if cache is not None:
        _write(found.folder(cache), arrays, about)
    return found


def row_hashes(examples: Examples, seed: int) -> Words:
    """A hash (N,) of what is in each row; equal rows have equal ones, wherever they stand."""
    (key,) = words(f"split {seed}".encode(), 1)
    columns = [*examples.features.T, examples.labels.astype(np.float64)]
    hashed = np.full(len(examples.labels), key, dtype=np.uint64)
    for column in columns:
        bits = np.ascontiguousarray(column + 0.0).view(np.uint64)  # + 0.0: -0.0 is 0.0
        hashed = mix(hashed ^ mix(bits))
    return hashed


def _write(folder: Path, arrays: dict[str, NDArray[np.float32] | Labels], about: object) -> None:
    if folder.is_dir():
        return
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    (partial / ABOUT).write_text(json.dumps(about), encoding="utf-8")
    try:
        publish(partial, folder)
    except OSError:
        if not folder.is_dir():  # unless another job has published the same meanwhile
            raise
        shutil.rmtree(partial)


def open_split(published: PublishedExamples, split: str, cache: Path) -> Split:
    """A split, `train` or `validation`, mapped into memory; every rank calls it.

    Raises:
        NotOnThisHost: the folder is not there.
    """
    folder = published.folder(cache)
    if not folder.is_dir():
        raise NotOnThisHost(
            f"{folder} is not there on {os.uname().nodename}; workers only open what the driver "
            "has prepared: copy that folder here, or set ORCHESTRATE_CACHE=DIR to a folder that "
            "all hosts see"
        )
    features, labels = (
        np.load(folder / f"{split}-{what}.npy", mmap_mode="r") for what in ("features", "labels")
    )
    return Split(features, labels)


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


def steps(
    split: Split,
    order: Order,
    position: int,
    global_batch_size: int,
    micro: int,
    rank: int,
    world_size: int,
) -> Iterator[list[Batch]]:
    """This rank's micro-batches of one optimizer step after another, without an end.

    The run is one line of positions, an epoch after the other: step s takes the next
    `global_batch_size` of them, whatever the number of ranks, so that each epoch shows each
    example once.

    Args:
        split: to train on.
        order: of its examples.
        position: the first of the first step.
        global_batch_size: examples of a step, a multiple of micro x world_size.
        micro: examples of a micro-batch.
        rank: takes every world_size-th micro-batch.
        world_size: number of ranks.
    """
    while True:
        line = np.arange(position, position + global_batch_size).reshape(-1, micro)
        yield [_batch(split, order(own), own) for own in line[rank::world_size]]
        position += global_batch_size


def evaluation(split: Split, micro: int, rank: int, world_size: int) -> Iterator[Batch]:
    """This rank's share of a whole split, each example once over all ranks.

    Every rank gets as many batches of the same sizes, as ZeRO 3 demands; what a rank lacks is
    filled up with the last example, which does not count.
    """
    each = -(-len(split) // world_size)
    places = np.arange(rank, each * world_size, world_size)
    for start in range(0, each, micro):
        own = places[start : start + micro]
        rows = np.minimum(own, len(split) - 1)
        yield _batch(split, rows, rows, own < len(split))


def _batch(
    split: Split, rows: Ids, sample_ids: Ids, counted: NDArray[np.bool_] | None = None
) -> Batch:
    counted = np.ones(len(rows), dtype=np.bool_) if counted is None else counted
    return Batch(split.features[rows], split.labels[rows], sample_ids, counted)
