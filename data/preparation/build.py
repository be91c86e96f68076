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
from data.preparation.jobs import Job, result_of
from data.preparation.running import Progress, Runner, Say
from data.preparation.scan import ScanTask, repeated, scan, write_repeats
from data.preparation.tokenize import TokenizeTask, tokenize, write
from data.sources import schema_changes
from data.tokenizer import Tokenizer


def carry_out(
    what: str, function: Any, tasks: Sequence[Any], run: Runner, say: Say
) -> list[dict[str, Any]]:
    """The results of tasks with a folder; those that are done already are not given out."""
    missing = [task for task in tasks if committed(Path(task.folder)) is None]
    run(function, missing, Progress(what, len(tasks), say, len(tasks) - len(missing)))
    return [result_of(task.folder) for task in tasks]


def scan_all(jobs: Sequence[Job], run: Runner, say: Say) -> None:
    """Scan the units of several datasets."""
    tasks = [
        ScanTask(job.config, unit, str(folder), job.limit, job.below)
        for job in jobs
        for unit, folder in zip(job.units, job.scans, strict=True)
    ]
    carry_out("scanning", scan, tasks, run, say)


def left_out(job: Job) -> list[Path]:
    """Files of the rows of each unit that are copies; the units have been scanned."""
    near = job.filters.near
    assert near is not None
    folder = job.scan_folder / f"left-out-{job.below:x}"

    def work(partial: Path) -> dict[str, Any]:
        for number, repeats in enumerate(repeated(job.scans, near)):
            write_repeats(partial / f"{number:05d}.json", repeats)
        return {}

    commit(folder, work)
    return [folder / f"{number:05d}.json" for number in range(len(job.units))]


def build(
    jobs: Sequence[Job],
    tokenizer: Tokenizer,
    tokenizer_path: Path,
    sets: Path,
    run: Runner,
    say: Say,
    check: Callable[[], None],
) -> dict[str, Path]:
    """Make and publish datasets; returns their folders by name.

    Args:
        jobs: the datasets.
        tokenizer: of all of them.
        tokenizer_path: where it stands.
        sets: where to publish.
        run: carries out the units.
        say: gets lines on the progress.
        check: called when all is read, before anything is published; it may raise.

    Raises:
        DataError: records can't be used; the message names file and row. What was published before
            stays as it is.
    """
    begun = time.monotonic()
    for job in jobs:
        for line in schema_changes(job.config):
            say(f"{job.name}: {line}")
    compared = [job for job in jobs if job.filters.near is not None]
    if compared:
        scan_all(compared, run, say)
    copies = {job.name: left_out(job) for job in compared}
    tasks = [
        TokenizeTask(
            job.config,
            unit,
            str(folder),
            str(tokenizer_path),
            job.limit,
            str(copies[job.name][number]) if job.name in copies else None,
        )
        for job in jobs
        for number, (unit, folder) in enumerate(zip(job.units, job.parts, strict=True))
    ]
    carry_out("tokenizing", tokenize, tasks, run, say)
    shards = [task for job in jobs for task in plan_shards(job, tokenizer_path)]
    written = carry_out("writing shards", write, shards, run, say)
    check()
    folders = publish_all(jobs, shards, tokenizer, tokenizer_path, sets, run, say)
    seconds = time.monotonic() - begun
    tokens = sum(result["entry"]["tokens"] for result in written)
    say(f"prepared in {clock(seconds)}: {tokens / seconds:,.0f} tokens/s")
    return folders
