"""What `prepare` gives: datasets that are ready, and what is known about them."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.drift.table_sketches import TableSketch
from data.files import DataError
from data.filters.report import Report
from data.shards import ShardSet
from data.shards.blocks import REMEDY
from data.tokenizer import Tokenizer

SPLITS = ("train", "validation")
Fact = int | str | float


@dataclass(frozen=True)
class Dataset:
    """One dataset of a job."""

    name: str
    train: ShardSet
    validation: ShardSet
    report: Report
    """What its filters left out."""
    baselines: dict[str, float]
    """Bits per byte on the validation text of n-grams and compressors."""
    facts: dict[str, Fact]
    """Counts of documents, bytes and tokens, for the record."""
    weight: int | None
    """Share in the mixture at the start; None: it enters by a phase."""
    folder: Path
    """Where it stands in the cache."""

    @property
    def fingerprint(self) -> str:
        """sha256 that stands for both splits and the tokenizer."""
        return fingerprint_of(self.train, self.validation)


@dataclass(frozen=True)
class Prepared:
    """The data of a job: one tokenizer and one or several datasets."""

    tokenizer: Tokenizer
    tokenizer_path: Path
    datasets: dict[str, Dataset]
    """By name; a single one is called data.config.SINGLE."""

    @property
    def train_sets(self) -> dict[str, ShardSet]:
        """The train split of each dataset."""
        return {name: dataset.train for name, dataset in self.datasets.items()}

    @property
    def validation_sets(self) -> dict[str, ShardSet]:
        """The validation split of each dataset."""
        return {name: dataset.validation for name, dataset in self.datasets.items()}

    @property
    def train(self) -> ShardSet:
        """The train split of the one dataset."""
        return self._only().train

    @property
    def validation(self) -> ShardSet:
        """The validation split of the one dataset."""
        return self._only().validation

    @property
    def fingerprint(self) -> str:
        """sha256 that stands for all datasets and the tokenizer."""
        if len(self.datasets) == 1:
            return self._only().fingerprint
        return hash_of({name: dataset.fingerprint for name, dataset in self.datasets.items()})

    @property
    def baselines(self) -> dict[str, float]:
        """Bits per byte over the validation text of all datasets, each under its own baseline."""
        sizes = {name: own.validation.manifest.bytes for name, own in self.datasets.items()}
        total: dict[str, float] = {}
        for name, dataset in self.datasets.items():
            for baseline, bits in dataset.baselines.items():
                share = sizes[name] / sum(sizes.values())
                total[baseline] = total.get(baseline, 0.0) + share * bits
        return total

    @property
    def facts(self) -> dict[str, Fact]:
        """Those of the one dataset; those of several with their name in front."""
        if len(self.datasets) == 1:
            return self._only().facts
        return {
            f"{name}/{fact}": value
            for name, dataset in self.datasets.items()
            for fact, value in dataset.facts.items()
        }

    def _only(self) -> Dataset:
        if len(self.datasets) != 1:
            names = ", ".join(self.datasets)
            raise ValueError(f"the data is a mixture ({names}); take one of its datasets")
        return next(iter(self.datasets.values()))


def hash_of(*parts: Any) -> str:
    """Hex sha256 of JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fingerprint_of(train: ShardSet, validation: ShardSet) -> str:
    """sha256 that stands for both splits and, since it is in theirs, the tokenizer."""
    return hash_of(train.fingerprint, validation.fingerprint)


def tables_of(folder: Path) -> list[TableSketch]:
    """What a published dataset knows of its columns; empty for folders of other kinds."""
    path = folder / "prepared.json"
    if not path.is_file():
        return []
    return [TableSketch.from_dict(own) for own in json.loads(path.read_text("utf-8"))["tables"]]


def open_set(folder: Path, name: str, weight: int | None) -> tuple[Tokenizer, Dataset]:
    """A published dataset with its tokenizer.

    Raises:
        DataError: its parts are damaged or don't belong together; says which and the remedy.
    """
    remedy = f"delete {folder} and start again"
    try:
        result: Mapping[str, Any] = json.loads((folder / "prepared.json").read_text("utf-8"))
        try:
            tokenizer = Tokenizer.load(folder / "tokenizer.json")
        except DataError as error:
            raise DataError(f"{error}; {remedy}") from None
        try:
            train, validation = (ShardSet.open(folder / split) for split in SPLITS)
        except DataError as error:  # deleting the folder of a split would be too little
            raise DataError(str(error).replace(REMEDY, remedy)) from None
        if result["fingerprint"] != fingerprint_of(train, validation):
            raise DataError(f"{folder / 'prepared.json'} belongs to other shards; {remedy}")
        for split in (train, validation):
            if split.manifest.tokenizer != tokenizer.fingerprint:
                raise DataError(f"{folder / 'tokenizer.json'} is not the shards' own; {remedy}")
        facts, baselines = result["facts"], result["baselines"]
        report = Report.from_dict(result["report"])
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise DataError(f"{folder}: the prepared data is damaged ({error}); {remedy}") from error
    return tokenizer, Dataset(name, train, validation, report, baselines, facts, weight, folder)
