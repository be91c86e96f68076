"""`orchestrate top`: the cluster on one page: nodes, jobs, how fast each goes, its loss as a curve.

In a terminal the page stays and follows what happens, until Ctrl-C; elsewhere it is printed once.
What a job has learned is read from its run folder; of one that can't be read here, somebody else's
or on another host's disk, only the state is shown.
"""

import argparse
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from cluster.queue.client import Client, Unreachable, connect
from cluster.queue.job import ENDED, PLACED
from data.messages import clock, counted
from orchestrator.record.lines import METRICS, JournalError, read
from orchestrator.record.runs import Run
from orchestrator.terminal import columns, say
from orchestrator.verbs.status import used_by_node

LOSS, RATE = "train/loss", "_per_second"
BLOCKS = "▁▂▃▄▅▆▇█"
NO_NUMBER = "!"
CURVE, LEAST_CURVE = 32, 8  # columns
KEPT = 4 * CURVE  # points of a curve; neighbours are joined where there are twice as many
ENDED_SHOWN = 3
MIN_EVERY_S = 0.1
HEADINGS = ("job", "owner", "state", "since", "step", "speed", "loss", "")


@dataclass
class Curve:
    """What a run has measured so far; `follow` reads what was added since."""

    run: Path
    total: int | None = None
    step: int = 0
    loss: float = math.nan
    rate: str = ""
    points: list[tuple[int, float]] = field(default_factory=list)
    """Step and mean loss of some steps after the point before."""
    _offset: int = 0

    def __post_init__(self) -> None:
        """Learn how far it is to go."""
        steps = Run(self.run).settings.get("stage.steps")
        self.total = steps if isinstance(steps, int) else None

    def follow(self) -> None:
        """Take in the lines that were added."""
        try:
            lines, self._offset = read(self.run / METRICS, self._offset)
        except (OSError, JournalError):  # it may not be ours to read
            return
        for line in lines:
            self._take(int(line["step"]), line["metrics"])

    def _take(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name.startswith("train/") and name.endswith(RATE):
                unit = name.removeprefix("train/").removesuffix(RATE)
                self.rate = f"{value:,.0f} {unit}/s"
        if LOSS not in metrics:
            return
        self.step, self.loss = step, metrics[LOSS]
        while self.points and self.points[-1][0] >= step:  # done again from a checkpoint
            self.points.pop()
        self.points.append((step, self.loss))
        if len(self.points) == 2 * KEPT:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points = [(last, (one + two) / 2) for (_, one), (last, two) in pairs]


def main(argv: Sequence[str]) -> int:
    """Show the page; returns the exit code. Raises ValueError if no queue answers at first."""
    options = parser().parse_args(argv)
    if not MIN_EVERY_S <= options.every < math.inf:
        raise ValueError(f"--every={options.every} must be at least {MIN_EVERY_S} s; try 1")
    client, curves = connect(), dict[str, Curve]()
    told = client.status()
    if options.once or not sys.stdout.isatty():
        for line in page(told, curves):
            say(line)
        return 0
    with suppress(KeyboardInterrupt):  # which is how one leaves
        _live(client, told, curves, options.every)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(
        prog="orchestrate top",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument("--once", action="store_true", help="print it once, also in a terminal")
    new.add_argument("--every", type=float, default=1.0, help="seconds between looks [%(default)s]")
    return new


def spark(values: Sequence[float], width: int = CURVE) -> str:
    """Values as blocks between the least and the most of them, in at most so many columns.

    Neighbours that share a column are averaged. What is no finite number stands as `!`.
    """
    columns = min(width, len(values))
    cuts = [number * len(values) // columns for number in range(columns + 1)] if columns else [0]
    means = [
        math.fsum(values[a:b]) / (b - a) if all(map(math.isfinite, values[a:b])) else math.nan
        for a, b in pairwise(cuts)
    ]
    finite = [mean for mean in means if math.isfinite(mean)]
    least, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join(
        BLOCKS[round((mean - least) / span * (len(BLOCKS) - 1)) if span else 0]
        if math.isfinite(mean)
        else NO_NUMBER
        for mean in means
    )


def _live(client: Client, told: Mapping[str, Any], curves: dict[str, Curve], every: float) -> None:
    trouble, console = "", Console()
    with Live(console=console, screen=True, auto_refresh=False) as screen:
        while True:
            lines = [*page(told, curves, console.width), "", trouble, "Ctrl-C leaves"]
            shown = [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]
            screen.update(Group(*shown), refresh=True)
            time.sleep(every)
            try:
                told = client.status()
                trouble = told["trouble"]["what"] if told["trouble"] else ""
            except Unreachable as error:  # it comes back, and this page with it
                trouble = str(error)


def page(
    told: Mapping[str, Any], curves: dict[str, Curve], width: int | None = None
) -> Iterator[str]:
    """The lines of the page; curves are as wide as they may be and as `width` columns let them."""
    yield _title(told)
    yield from columns(list(_nodes(told)))
    rows = list(_jobs(told, curves, CURVE))
    if width is not None:
        taken = sum(
            max(map(len, column)) + 2
            for column in zip(*[HEADINGS[:-1], *(row[:-1] for row in rows)], strict=True)
        )
        rows = list(_jobs(told, curves, min(CURVE, max(LEAST_CURVE, width - taken))))
    yield from columns([HEADINGS, *rows]) if rows else ["no job yet: orchestrate submit"]


def _title(told: Mapping[str, Any]) -> str:
    up = clock(time.time() - told["since"])
    running = counted(sum(job["state"] in PLACED for job in told["jobs"]), "job")
    waiting = sum(job["state"] not in {*PLACED, *ENDED} for job in told["jobs"])
    now = time.strftime("%H:%M:%S")
    return f"cluster {told['ray']['address']}  up {up}  {running} at work, {waiting} waiting  {now}"


def _nodes(told: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Each node with what of it is in use."""
    used = used_by_node(told["jobs"])
    for node in told["nodes"]:
        row = [f"node {node['name']}", node["address"]]
        for kind in ("CPU", "GPU"):
            has = int(node["resources"].get(kind, 0))
            row.append(f"{used[node['name']][kind]} of {counted(has, kind)} in use" if has else "")
        at_work = sorted({j["id"] for j in told["jobs"] if node["name"] in _where(j)})
        yield (*row, ", ".join(at_work))


def _jobs(
    told: Mapping[str, Any], curves: dict[str, Curve], width: int
) -> Iterator[tuple[str, ...]]:
    """Those at work, then those that wait, then the newest that have ended."""
    jobs = told["jobs"]
    at_work = [job for job in jobs if job["state"] in PLACED]
    ended = [job for job in jobs if job["state"] in ENDED]
    waiting = [job for job in jobs if job["state"] not in {*PLACED, *ENDED}]
    for job in [*at_work, *waiting, *ended[-ENDED_SHOWN:]]:
        begun = job["ended_s"] or job["started_s"] or job["submitted_s"]
        row = (job["id"], job["owner"], job["state"], clock(max(0.0, time.time() - begun)))
        if job["state"] not in PLACED:
            yield (*row, "", "", "", job["reason"] if job in waiting else job["message"])
            continue
        yield (*row, *_measured(job["run"], curves, width))


def _measured(run: str | None, curves: dict[str, Curve], width: int) -> tuple[str, str, str, str]:
    """Step, speed, loss and its curve; nothing of a job that has no run yet."""
    if run is None:
        return "", "", "", "its driver begins"
    curve = curves.setdefault(run, Curve(Path(run)))
    curve.follow()
    if not curve.points:
        return "", "", "", "no step yet"
    step = f"{curve.step}/{curve.total}" if curve.total else str(curve.step)
    return step, curve.rate, f"{curve.loss:.4g}", spark([loss for _, loss in curve.points], width)


def _where(job: Mapping[str, Any]) -> Sequence[str]:
    return job["placement"] if job["state"] in PLACED else ()
