"""What joins tokenized units to a dataset: which shards there will be, and the finished folder."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.drift.sketches import VERSION as SKETCHES
from data.drift.table_sketches import TableSketch, merged
from data.files import DataError, json_sha256, publish, write_text_atomic
from data.filters.filters import EMPTY, EXACT
from data.filters.report import Report
from data.messages import Passing
from data.preparation.dataset import Fact, fingerprint_of
from data.preparation.running import Runner, Say
from data.preparation.spill import BIN_BITS, BINS, SPLITS, Histogram, Selection
from data.preparation.tokenize import HISTOGRAM, MeasureTask, WriteTask, measure
from data.preparation.work import DatasetWork, merged_reports, result_of
from data.shards import SHARD_TOKENS, ShardEntry, write_manifest
from data.shards.manifest import Manifest
from data.tokenizer import Tokenizer

PREPARE_VERSION = 2  # raise it when the same text and settings lead to other shards
SHARD_DOCUMENTS = 1 << 19  # a document costs a writer about 1 kB besides its tokens


def plan_shards(dataset: DatasetWork, tokenizer_path: Path) -> list[WriteTask]:
    """Which shards there will be, from what the tokenized units say of their documents.

    So that no split by hash is empty, the lowest digest is always in validation and the highest in
    train: then the limit is moved.

    Raises:
        DataError: a split has no document.
    """
    histogram: Histogram = sum(np.load(part / HISTOGRAM) for part in dataset.parts)
    if dataset.limit is None:
        _check_given(dataset, histogram)
        limit = None
    else:
        limit = _moved_limit(dataset, histogram)
    return [
        WriteTask(
            tuple(map(str, dataset.parts)),
            Selection(split, bins, limit, dataset.limit),
            number,
            str(dataset.folder / f"write-{split}-{number:05d}"),
            str(dataset.set / split),
            str(tokenizer_path),
            tuple(dataset.config.filters),
        )
        for split, counts in zip(SPLITS, histogram, strict=True)
        for number, bins in enumerate(ranges(counts))
    ]


def _check_given(dataset: DatasetWork, histogram: Histogram) -> None:
    """Raise DataError unless both of the splits that the settings name have a document."""
    for split, (documents, _) in zip(SPLITS, histogram, strict=True):
        if not documents.any():
            inputs = zip(dataset.inputs, dataset.parts, strict=True)
            results = [
                result_of(part) for own, part in inputs if bool(own.limit) != (split == "train")
            ]
            raise DataError(
                f"{dataset.source}: there is no text for {split} ({_left_out(results)}); look at "
                "data.validation and the files"
            )


def _moved_limit(dataset: DatasetWork, histogram: Histogram) -> int:
    """The limit of the split by hash, moved if a split would be empty; takes a document out then.

    Raises:
        DataError: there are fewer than two documents.
    """
    results = [result_of(part) for part in dataset.parts]
    lows = [bytes.fromhex(result["lowest"]) for result in results if result["lowest"]]
    highs = [bytes.fromhex(result["highest"]) for result in results if result["highest"]]
    if not lows:
        raise DataError(f"{dataset.source}: there is no text in it ({_left_out(results)})")
    lowest, highest = min(lows), max(highs)
    if lowest == highest:
        config = dataset.config
        cut = ", cut the last part off with data.validation.take=tail"
        raise DataError(
            f"{dataset.source}: only one document is in it ({_left_out(results)}); training and "
            "validation need one each; bring more text, or name documents to validate on, "
            f"data.validation.path=FILES{cut if config.source == 'text' else ''}"
        )
    limit = dataset.limit
    assert limit is not None  # the split is by hash
    for moved in (lowest, highest):
        first, key = int.from_bytes(moved[:8], "big"), int.from_bytes(moved[8:], "big")
        if (moved is lowest and first >= limit) or (moved is highest and first < limit):
            limit = first + 1 if moved is lowest else first
            # It counts in no split, so that every shard has a document besides it.
            histogram[:, :, key >> (64 - BIN_BITS)] = 0
            break
    return limit


def _left_out(results: Sequence[dict[str, Any]]) -> str:
    said = merged_reports(results).left_out()
    return f"left out: {said}" if said else "nothing was left out"


def ranges(counts: Histogram) -> list[tuple[int, int]]:
    """Cut the bins of a split into ranges of equal size, about a shard each, none empty.

    Args:
        counts: (2: documents and tokens, BINS).
    """
    documents, tokens = counts
    shards = max(-(-tokens.sum() // SHARD_TOKENS), -(-documents.sum() // SHARD_DOCUMENTS), 1)
    measure = (
        tokens if tokens.sum() // SHARD_TOKENS >= documents.sum() // SHARD_DOCUMENTS else documents
    )
    filled = np.flatnonzero(documents)
    # The bin after which each range but the last would end; a bin is never cut.
    before = np.cumsum(measure[filled])
    wanted = before[-1] * np.arange(1, shards) // shards if len(filled) else []
    ends = np.unique(np.searchsorted(before, wanted, side="left"))
    stops = [int(filled[end]) + 1 for end in ends if end < len(filled) - 1]
    return list(zip([0, *stops], [*stops, BINS], strict=True))


def publish_all(
    datasets: Sequence[DatasetWork],
    shards: Sequence[WriteTask],
    tokenizer: Tokenizer,
    tokenizer_path: Path,
    sets: Path,
    run: Runner,
    say: Say,
) -> dict[str, Path]:
    """Finish the folders of datasets whose shards are written, and give them their names."""
    manifests = {
        dataset.name: [_manifest(dataset, s, shards, tokenizer) for s in SPLITS]
        for dataset in datasets
    }
    tasks = [
        MeasureTask(
            what, str(dataset.set / "train"), str(dataset.set / "validation"), str(tokenizer_path)
        )
        for dataset in datasets
        for what in ("ngrams", "compressors")
    ]
    say(Passing("measuring what a model has to beat"))
    measured = iter(run(measure, tasks, lambda index, result: None))
    folders = {}
    for dataset in datasets:
        baselines = next(measured) | next(measured)
        validation, train = manifests[dataset.name]
        fingerprint = fingerprint_of(train, validation)
        units = [result_of(part) for part in dataset.parts]
        written = [
            result_of(task.folder) for task in shards if Path(task.shards).parent == dataset.set
        ]
        report = merged_reports([*units, *written])
        content = {
            "fingerprint": fingerprint,
            "baselines": baselines,
            "facts": _facts(dataset, train, validation, report, sum(u["cut"] for u in units)),
            "report": report.to_dict(),
            "table": _table(units),
        }
        write_text_atomic(dataset.set / "prepared.json", json.dumps(content, indent=1))
        tokenizer.save(dataset.set / "tokenizer.json")
        # The fingerprint does not tell where documents came from, nor what was left out; the
        # folder does.
        places = [entry["entry"]["documents_sha256"] for entry in written]
        folders[dataset.name] = _publish(
            dataset, sets / json_sha256([fingerprint, places, report.to_dict(), SKETCHES])[:32]
        )
        for manifest in (train, validation):
            say(
                f"{dataset.name} {manifest.name}: {manifest.documents:,} documents, "
                f"{manifest.bytes:,} bytes, {manifest.tokens:,} tokens"
            )
    return folders


def _table(units: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The sketch of the columns that contract and filters name, if they name any."""
    parts = [TableSketch.from_dict(unit["table"]) for unit in units if unit["table"]]
    return merged(parts).to_dict() if parts else None


def _manifest(
    dataset: DatasetWork, split: str, shards: Sequence[WriteTask], tokenizer: Tokenizer
) -> Manifest:
    folder = dataset.set / split
    own = [result_of(task.folder)["entry"] for task in shards if task.shards == str(folder)]
    settings = {
        "validation_fraction": dataset.validation_fraction,
        "prepare_version": PREPARE_VERSION,
    }
    return write_manifest(
        folder,
        [ShardEntry(**entry) for entry in own],
        name=split,
        records=dataset.config.records,
        tokenizer=tokenizer.fingerprint,
        max_id=tokenizer.vocab_size - 1,
        end_of_text=tokenizer.end_of_text,
        settings=settings,
    )


def _publish(dataset: DatasetWork, folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        publish(dataset.set, folder)
    except OSError:
        if not folder.is_dir():
            raise
        shutil.rmtree(dataset.set)  # other settings led to the same documents, before or just now
    return folder


def _facts(
    dataset: DatasetWork, train: Manifest, validation: Manifest, report: Report, cut: int
) -> dict[str, Fact]:
    facts: dict[str, Fact] = {
        "source": dataset.config.source,
        "documents": train.documents + validation.documents,
        "duplicates_dropped": report[EXACT].dropped,
        "empty_dropped": report[EMPTY].dropped,
        **({"texts_cut": cut} if cut else {}),
        "vocab_size": train.max_id + 1,
    }
    for manifest in (train, validation):
        facts |= {
            f"{manifest.name}_documents": manifest.documents,
            f"{manifest.name}_bytes": manifest.bytes,
            f"{manifest.name}_tokens": manifest.tokens,
            f"{manifest.name}_fingerprint": manifest.fingerprint,
        }
    return facts
