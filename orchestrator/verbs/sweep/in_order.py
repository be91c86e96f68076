"""Several jobs, one after another: all are checked first, and a table says how each ended.

The table and a picture of all curves stay in the sweep's own folder, `<outputs>/<date>/
<time>-sweep-<id>/`. A verb that starts nothing, which is `plan`, checks each job when its turn
comes.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.files import write_text_atomic
from data.messages import clock, short
from orchestrator.config import JobConfig
from orchestrator.job.codes import DONE, FAILED, REFUSED
from orchestrator.record.comparing import pictures
from orchestrator.record.runfolder import new_folder
from orchestrator.record.runs import Run, best_first, made_here
from orchestrator.terminal import columns, say

Jobs = list[tuple[JobConfig, list[str]]]


@dataclass(frozen=True)
class Ended:
    """How one job of a sweep ended."""

    code: int
    seconds: float
    run: Run | None
    """None: it was refused."""


def carry_out(jobs: Jobs, verb: Callable[..., int], asked: float, *, starts: bool) -> int:
    """Call the verb with each job; returns the largest exit code.

    A job that fails does not keep the others from running; Ctrl-C ends the sweep. `asked` is when
    the user asked for them, by `time.monotonic`, and `starts` whether the verb starts jobs.

    Raises:
        ValueError: a job can't work, and none was started.
    """
    from orchestrator.plan.planning import make_plan

    for number, (config, overrides) in enumerate(jobs if starts else ()):
        try:
            # Its config names what `outputs/latest` means now, not after the first job.
            jobs[number] = make_plan(config, print).config, overrides
        except ValueError as error:
            raise ValueError(f"in the job {shlex.join(overrides)}: {error}") from error
    ended: list[Ended] = []
    for number, (config, overrides) in enumerate(jobs, 1):
        say(f"\njob {number} of {len(jobs)}: {shlex.join(overrides)}")
        try:
            code = verb(config, overrides, asked)
        except ValueError as error:  # of what has changed since all were checked
            if not starts:
                raise ValueError(f"in the job {shlex.join(overrides)}: {error}") from error
            say(f"error: {error}", sys.stderr)
            code = FAILED
        before = [own.run.folder for own in ended if own.run is not None]
        run = made_here(Path(config.outputs), before) if starts else None
        ended.append(Ended(code, time.monotonic() - asked, run))
        asked = time.monotonic()
        if code not in (DONE, FAILED, REFUSED):
            break
    if starts:
        words = [overrides for _, overrides in jobs]
        say("\n" + "\n".join(table(words, ended)))
        if any(own.run is not None for own in ended):
            say(f"sweep folder: {short(record(Path(jobs[0][0].outputs), words, ended))}")
    return max(own.code for own in ended)


def table(jobs: Sequence[Sequence[str]], ended: Sequence[Ended]) -> list[str]:
    """A line for each job, best first: how it ended, its result, its run, and what was its own."""
    rows = [("job", "status", "result", "parameters", "time", "run", "overrides")]
    words = own_words(jobs)
    for place in best_first([own.run for own in ended]):
        last, number, own = ended[place], place + 1, words[place]
        measured = last.run.headline if last.run else None
        result = "-"
        if last.run and measured:
            result = f"{measured[0].split('/', 1)[-1]} {last.run.told(measured[0])}"
        status, name = (last.run.status, last.run.id) if last.run else ("refused", "-")
        size = last.run.parameters if last.run else None
        many = "-" if size is None else f"{size:,}"
        rows.append((str(number), status, result, many, clock(last.seconds), name, own))
    for number, own in enumerate(words[len(ended) :], len(ended) + 1):
        rows.append((str(number), "not started", "-", "-", "-", "-", own))
    return columns(rows)


def own_words(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The overrides of each job that not all of them have."""
    common = set.intersection(*map(set, jobs))
    return [shlex.join(word for word in words if word not in common) for words in jobs]


def record(outputs: Path, jobs: Sequence[Sequence[str]], ended: Sequence[Ended]) -> Path:
    """Put what came out into a folder of the sweep's own, which is returned.

    sweep.json has the overrides, the run folder, the status and the metrics of each job,
    comparison.png and planes.png what they look like.
    """
    folder = new_folder(outputs.absolute(), "sweep")
    folder.mkdir(parents=True)
    runs = [own.run for own in ended]
    found = [
        {
            "overrides": list(words),
            "run": None if run is None else os.path.relpath(run.folder, folder),
            "status": "refused" if run is None else run.status,
            "metrics": {} if run is None else run.metrics,
        }
        for words, run in zip(jobs, runs, strict=False)
    ]
    write_text_atomic(folder / "sweep.json", json.dumps({"jobs": found}, indent=1))
    pictures.draw(jobs, runs, folder)
    return folder
