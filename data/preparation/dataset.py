"""What `prepare` gives: datasets that are ready, and what is known about them."""

import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from data.files import DamagedData, DataError, NotOnThisHost, cache_root, json_sha256, read_json
from data.filters.report import Report
from data.messages import counted
from data.shards import Manifest, ShardSet
from data.shards.blocks import REMEDY
from data.sources.folders import summary
from data.tokenizer import Tokenizer

SETS = Path("data/sets")  # under the cache root
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
    passed_over: tuple[tuple[str, str], ...] = ()
    """Path and reason of what data.path reaches and is not read; known where it was prepared."""

    @property
    def fingerprint(self) -> str:
        """sha256 that stands for both splits and the tokenizer."""
        return fingerprint_of(self.train, self.validation)

    def left_out(self) -> str:
        """On one line what is not in it, of the records and of the files; "" if that is nothing."""
        said = []
        if records := self.report.left_out():
            said.append(f"left out of {self.report.seen:,} records {records}")
        if cut := self.facts.get("texts_cut"):
            said.append(f"cut {counted(int(cut), 'long text')} into several documents")
        if files := summary(self.passed_over):
            said.append(f"did not read {files}")
        return "; ".join(said)


@dataclass(frozen=True)
class PublishedSet:
    """Names one published dataset of a job."""

    name: str
    folder: str
    """Name of its folder under SETS, wherever the cache is."""
    weight: int | None
    """As Dataset.weight."""
    fingerprint: str
    """As Dataset.fingerprint."""


@dataclass(frozen=True)
class Published:
    """Names the published data of a job, so that it can be opened without preparing.

    Small, picklable, and the same on every host: nothing in it says where a cache is.
    """

    sets: tuple[PublishedSet, ...]

    @property
    def fingerprint(self) -> str:
        """sha256 over all of it."""
        return json_sha256([astuple(own) for own in self.sets])

    def folders(self, root: Path | None = None) -> list[Path]:
        """Folders that must be under a cache root for `open_published`, each once.

        To bring the data to a host without a shared cache, copy these folders with all that is
        in them to the same places under its root.

        Args:
            root: of the cache; None: `cache_root()`.
        """
        sets = (root or cache_root()) / SETS
        return [sets / name for name in dict.fromkeys(own.folder for own in self.sets)]


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
        fingerprints = {name: dataset.fingerprint for name, dataset in self.datasets.items()}
        return json_sha256([fingerprints])

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

    def published(self) -> Published:
        """What another process needs to open this data; the driver calls it, once.

        `open_published` is the other end.
        """
        return Published(
            tuple(
                PublishedSet(name, own.folder.name, own.weight, own.fingerprint)
                for name, own in self.datasets.items()
            )
        )

    def _only(self) -> Dataset:
        if len(self.datasets) != 1:
            names = ", ".join(self.datasets)
            raise ValueError(f"the data is a mixture ({names}); take one of its datasets")
        return next(iter(self.datasets.values()))


def fingerprint_of(train: ShardSet | Manifest, validation: ShardSet | Manifest) -> str:
    """sha256 that stands for both splits and, since it is in theirs, the tokenizer."""
    return json_sha256([train.fingerprint, validation.fingerprint])


def open_set(folder: Path, name: str, weight: int | None) -> tuple[Tokenizer, Dataset]:
    """A published dataset with its tokenizer.

    Raises:
        DamagedData: a part of it is missing, torn, of another set or version; names the folder.
    """
    remedy = f"delete {folder} and start again"
    try:
        result: Mapping[str, Any] = read_json(folder / "prepared.json")
        tokenizer = Tokenizer.load(folder / "tokenizer.json")
        train, validation = (ShardSet.open(folder / split) for split in ("train", "validation"))
        if result["fingerprint"] != fingerprint_of(train, validation):
            raise DamagedData(f"{folder / 'prepared.json'} belongs to other shards")
        for split in (train, validation):
            if split.manifest.tokenizer != tokenizer.fingerprint:
                raise DamagedData(f"{folder / 'tokenizer.json'} is not the shards' own")
        facts, baselines = result["facts"], result["baselines"]
        report = Report.from_dict(result["report"])
    except DataError as error:  # deleting the folder of a split would be too little
        said = str(error).replace(f"; {REMEDY}", "")
        raise DamagedData(f"{said}; {remedy}") from None
    except (OSError, KeyError, TypeError) as error:
        raise DamagedData(f"{folder}: the prepared data is damaged ({error}); {remedy}") from error
    return tokenizer, Dataset(name, train, validation, report, baselines, facts, weight, folder)


def open_published(published: Published, root: Path | None = None) -> Prepared:
    """Open data that the driver prepared and named; every rank calls this.

    Nothing is prepared, trained or written, and no network is used.

    Args:
        published: `Prepared.published()` of the driver.
        root: of the cache that holds the sets, or copies of them; None: `cache_root()`.

    Raises:
        NotOnThisHost: a set is not there; names the dataset and the folder.
        DamagedData: a set is damaged, or is not the one that the driver prepared.
    """
    datasets: dict[str, Dataset] = {}
    tokenizer = tokenizer_path = None
    for own in published.sets:
        folder = (root or cache_root()) / SETS / own.folder
        if not folder.is_dir():
            raise NotOnThisHost(
                f"dataset {own.name}: {folder} is not there on {os.uname().nodename}; workers only "
                "open what the driver has prepared: copy that folder here, or set "
                "ORCHESTRATE_CACHE=DIR to a folder that all hosts see"
            )
        tokenizer, datasets[own.name] = open_set(folder, own.name, own.weight)
        tokenizer_path = tokenizer_path or folder / "tokenizer.json"
        if datasets[own.name].fingerprint != own.fingerprint:
            raise DamagedData(
                f"dataset {own.name}: {folder} holds other data than the driver prepared; delete "
                "it and copy it here again"
            )
    if tokenizer is None or tokenizer_path is None:
        raise ValueError("the published data names no dataset")
    return Prepared(tokenizer, tokenizer_path, datasets)
