"""A dataset in the making: its units of work, their folders, and what they found."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.addresses import hide
from data.config import SourceConfig
from data.filters import Filters
from data.filters.report import Report
from data.preparation.commits import committed, remove_partial
from data.sources.inputs import InputUnit

WHOLE = 1 << 64
"""A limit above every digest: all is validation."""
PROCESS_BYTES = 700_000_000
"""Of memory that a process of the preparation takes at most, with usual records: measured."""


def limit_of(fraction: float) -> int:
    """The limit below which about this part of all digests is."""
    return int(fraction * WHOLE)


@dataclass(frozen=True)
class Input:
    """A unit of input, and which of its records are kept for validation."""

    config: SourceConfig
    unit: InputUnit
    limit: int
    """A record is in validation when the first half of its digest is below it."""


@dataclass
class DatasetWork:
    """A dataset to be made."""

    name: str
    config: SourceConfig
    filters: Filters
    validation_fraction: float | None
    """Of the split by hash. None: each input is for one split alone."""
    folder: Path
    """Of the work; one per dataset and tokenizer."""
    scan_folder: Path
    """Of the scan; one per dataset."""
    below: int
    """Keys below it are sampled by the scan, for training a tokenizer."""
    inputs: list[Input]
    """Those of validation alone come first, so that of equal records theirs is the original."""

    def __post_init__(self) -> None:
        """Remove what killed processes left."""
        for folder in (self.folder, self.scan_folder):
            remove_partial(folder)
        if not self.set.is_dir():  # killed after it was published: the shards have gone with it
            for written in self.folder.glob("write-*"):
                shutil.rmtree(written)

    @property
    def source(self) -> str:
        """The source, for messages."""
        return f"data.source={self.config.source}" + (
            f" data.path={hide(self.config.path)}" if self.config.path else ""
        )

    @property
    def limit(self) -> int | None:
        """Of all inputs. None: each of them is for one split alone."""
        return None if self.validation_fraction is None else limit_of(self.validation_fraction)

    @property
    def scans(self) -> list[Path]:
        """Folders of the scanned units."""
        return [self.scan_folder / f"scan-{self.below:x}-{n:05d}" for n in range(len(self.inputs))]

    @property
    def parts(self) -> list[Path]:
        """Folders of the tokenized units."""
        return [self.folder / f"tokenize-{n:05d}" for n in range(len(self.inputs))]

    @property
    def set(self) -> Path:
        """Folder that is published in the end."""
        return self.folder / "set"


def merged_reports(results: Sequence[dict[str, Any]]) -> Report:
    """What filters left out, over the results of several units."""
    report = Report()
    for result in results:
        report = report.merge(Report.from_dict(result["report"]))
    return report


def result_of(folder: Path | str) -> dict[str, Any]:
    """The result of a unit that is done."""
    result = committed(Path(folder))
    assert result is not None
    return result
