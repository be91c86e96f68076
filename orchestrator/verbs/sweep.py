"""Several jobs, one after another: all are checked first, and a table says how each ended.

A verb that starts nothing, which is `plan`, checks each when its turn comes.
"""

import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.messages import clock
from orchestrator.config import JobConfig
from orchestrator.job.codes import DONE, FAILED, REFUSED
from orchestrator.record.runs import Run, made_here
from orchestrator.record.sweeps import parameters
from orchestrator.terminal import say

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
        compare(Path(jobs[0][0].outputs), words, ended)
    return max(own.code for own in ended)


def table(jobs: Sequence[Sequence[str]], ended: Sequence[Ended]) -> list[str]:
    """A line for each job: how it ended, its result, its run, and what it had of its own."""
    rows = [("job", "status", "result", "parameters", "time", "run", "overrides")]
    for number, own in enumerate(names(jobs), 1):
        if number > len(ended):
            rows.append((str(number), "not started", "-", "-", "-", "-", own))
            continue
        last = ended[number - 1]
        measured = last.run.headline if last.run else None
        result = f"{measured[0].split('/', 1)[-1]} {measured[1]:.4g}" if measured else "-"
        status, name = (last.run.status, last.run.id) if last.run else ("refused", "-")
        size = parameters(last.run) if last.run else None
        many = "-" if size is None else f"{size:,}"
        rows.append((str(number), status, result, many, clock(last.seconds), name, own))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def names(jobs: Sequence[Sequence[str]]) -> list[str]:
    """What each job has of its own among its overrides."""
    common = set.intersection(*map(set, jobs))
    return [shlex.join(word for word in words if word not in common) for words in jobs]


def compare(outputs: Path, jobs: Sequence[Sequence[str]], ended: Sequence[Ended]) -> None:
    """Put a picture of all runs, and the table, into a folder of the sweep's own."""
    from orchestrator.record import sweeps

    runs = {
        name: own.run
        for name, own in zip(names(jobs), ended, strict=False)
        if own.run is not None and own.run.status == "done"
    }
    folder = sweeps.new_folder(outputs)
    (folder / "table.txt").write_text("\n".join(table(jobs, ended)) + "\n", encoding="utf-8")
    if sweeps.draw(runs, folder / sweeps.PICTURE):
        say(f"compared:    {folder / sweeps.PICTURE}")
