"""The making of datasets that are not in the cache yet: units of work, and what joins them.

1. Near duplicates, if the filters ask for them: `scan` every unit, then tell which rows are copies.
2. `tokenize` every unit.
3. Cut the range of the documents' hashes into pieces of about a shard each, and `write` the shards.
4. Manifests and baselines; publish by rename.
A unit that is done stays done, also if this process is killed: the next attempt goes on there.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.messages import clock
from data.preparation.assemble import plan_shards, publish_all
from data.preparation.commits import commit, committed
from data.preparation.running import Runner, Say, UnitProgress
from data.preparation.scan import ScanTask, repeated, scan, write_repeats
from data.preparation.tokenize import TokenizeTask, tokenize, write
from data.preparation.work import DatasetWork, result_of
from data.sources import schema_changes
from data.tokenizer import Tokenizer


def carry_out(
    what: str, function: Any, tasks: Sequence[Any], run: Runner, say: Say
) -> list[dict[str, Any]]:
    """The results of tasks with a folder; those that are done already are not given out."""
    missing = [task for task in tasks if committed(Path(task.folder)) is None]
    run(function, missing, UnitProgress(what, len(tasks), say, len(tasks) - len(missing)))
    return [result_of(task.folder) for task in tasks]


def scan_all(datasets: Sequence[DatasetWork], run: Runner, say: Say) -> None:
    """Scan the units of several datasets."""
    tasks = [
        ScanTask(own.config, own.unit, str(folder), own.limit, dataset.below)
        for dataset in datasets
        for own, folder in zip(dataset.inputs, dataset.scans, strict=True)
    ]
    carry_out("scanning", scan, tasks, run, say)


def left_out(dataset: DatasetWork) -> list[Path]:
    """Files of the rows of each unit that are copies; the units have been scanned."""
    near = dataset.filters.near
    assert near is not None
    folder = dataset.scan_folder / f"left-out-{dataset.below:x}"

    def work(partial: Path) -> dict[str, Any]:
        for number, repeats in enumerate(repeated(dataset.scans, near)):
            write_repeats(partial / f"{number:05d}.json", repeats)
        return {}

    commit(folder, work)
    return [folder / f"{number:05d}.json" for number in range(len(dataset.inputs))]


def make_datasets(
    datasets: Sequence[DatasetWork],
    tokenizer: Tokenizer,
    tokenizer_path: Path,
    sets: Path,
    run: Runner,
    say: Say,
    check: Callable[[], None],
) -> dict[str, Path]:
    """Make and publish datasets; returns their folders by name.

    Args:
        tokenizer: of all datasets; it stands at `tokenizer_path`.
        sets: where to publish.
        check: called when all is read, before anything is published; it may raise.

    Raises:
        DataError: records can't be used; the message names file and row. What was published before
            stays as it is.
    """
    begun = time.monotonic()
    for dataset in datasets:
        for line in schema_changes(dataset.config):
            say(f"{dataset.name}: {line}")
    compared = [dataset for dataset in datasets if dataset.filters.near is not None]
    if compared:
        scan_all(compared, run, say)
    copies = {dataset.name: left_out(dataset) for dataset in compared}
    tasks = [
        TokenizeTask(
            own.config,
            own.unit,
            str(folder),
            str(tokenizer_path),
            own.limit,
            str(copies[dataset.name][number]) if dataset.name in copies else None,
        )
        for dataset in datasets
        for number, (own, folder) in enumerate(zip(dataset.inputs, dataset.parts, strict=True))
    ]
    carry_out("tokenizing", tokenize, tasks, run, say)
    shards = [task for dataset in datasets for task in plan_shards(dataset, tokenizer_path)]
    written = carry_out("writing shards", write, shards, run, say)
    check()
    folders = publish_all(datasets, shards, tokenizer, tokenizer_path, sets, run, say)
    seconds = time.monotonic() - begun
    tokens = sum(result["entry"]["tokens"] for result in written)
    say(f"prepared in {clock(seconds)}: {tokens / seconds:,.0f} tokens/s")
    return folders
