"""Where the time of a run went, and its goodput; from the journal alone, exact to its milliseconds.

Every moment between the first line and the last belongs to one part, so the parts add up to the
wall time:

start        up to the begin of the first step
steps        optimizer steps that count, without their wait for data
data         what these steps waited for data
lost steps   steps that a later attempt had to do again, or that no checkpoint kept
recovery     from the last step before a failure, a roll-back or the end of an attempt to the next
evaluation   from a step or evaluation to what was measured next
saves        what checkpoints made training wait
other        the rest: what comes after the last step, samples, the record
"""

import heapq
import re
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.record.descent import Descent
from orchestrator.record.lines import EVENTS, METRICS, read
from orchestrator.record.standing import Standing

CHUNK_BYTES = 1 << 20
GOODPUT = "run/goodput"
"""The metric's name in the journal, result.json and MLflow."""
STEP_SECONDS = "train/step_seconds"
PART_SECONDS = re.compile("train/([a-z]+)_seconds")
DATA_WAITS = ("train/data_wait_fraction", "train/data_wait")
"""Of a step, the share that it waited for data; the second name is that of older runs."""
PARTS = ("start", "steps", "data", "lost steps", "recovery", "evaluation", "saves", "other")
Line = dict[str, Any]


@dataclass
class Spending:
    """What a run took, and what it has to show for it."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    """Of each part."""
    steps: int = 0
    """Optimizer steps that are committed: on the line of descent of the newest attempt and, once
    the run is over without being done, not after its newest checkpoint."""
    lost_steps: int = 0
    """Optimizer steps that were done and are not committed."""
    step_seconds: float | None = None
    """Fault-free time of a step: the median over the committed ones. None: there are none."""
    part_seconds: dict[str, float] = field(default_factory=dict)
    """The same of its parts, by their names, where the stage tells them: rollout, update ..."""
    failures: int = 0

    @property
    def wall_s(self) -> float:
        """From the first line of the journal to the last, over all attempts."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float | None:
        """Committed steps x fault-free step time / wall time. None: the run made no steps.

        The share of the time that went into progress, as the "effective training time ratio" of
        Kokolis et al., Revisiting Reliability in Large-Scale ML Research Clusters, HPCA 2025.
        """
        if self.step_seconds is None or self.wall_s <= 0:
            return None
        return self.steps * self.step_seconds / self.wall_s


def spending(
    folder: Path,
    standing: Standing | None = None,
    *,
    now_ms: int | None = None,
    goes_on: bool = False,
) -> Spending:
    """What the run in `folder` took so far.

    Args:
        folder: a run folder.
        standing: how far the run has got, where that is known.
        now_ms: until when it has taken time. None: until its last line.
        goes_on: whether steps after its newest checkpoint may still be kept.
    """
    standing, descent = standing or Standing.read(folder), Descent(folder)
    last_kept: float = standing.checkpoint_step or 0
    if goes_on or standing.status == "done":
        last_kept = float("inf")
    account, committed = _Account(), []
    for line in _lines(folder):
        if STEP_SECONDS not in line.get("metrics", {}):
            account.take(line)
            continue
        counts = descent.holds(line["attempt"], line["step"]) and line["step"] <= last_kept
        account.step(line, counts)
        if counts:
            committed.append(_timed(line["metrics"]))
        else:
            account.spent.lost_steps += 1
    spent = account.close(now_ms)
    spent.steps = len(committed)
    if committed:
        parts = {
            name: statistics.median(own[name] for own in committed if name in own)
            for name in committed[-1]
        }
        spent.step_seconds = parts.pop("step")
        spent.part_seconds = parts
    return spent


def _timed(metrics: dict[str, float]) -> dict[str, float]:
    """Seconds of a step and of its parts, by name; those since the start of the run are neither."""
    found = (PART_SECONDS.fullmatch(name) for name in metrics)
    return {match[1]: metrics[match[0]] for match in found if match}


class _Account:
    """Gives each stretch between two lines to a part."""

    def __init__(self) -> None:
        self.spent = Spending()
        self._until: int | None = None  # milliseconds since 1970; all before it is accounted for
        self._part = "start"  # of what comes next, if no line says otherwise
        self._attempt, self._last, self._stalls = 0, 0, 0.0

    def step(self, line: Line, counts: bool) -> None:
        """A step ended."""
        self._see(line)
        end, took = line["time_ms"], line["metrics"][STEP_SECONDS]
        begin = max(self._until or 0, end - round(1000 * took))
        self._give(self._part, begin)
        waits = [line["metrics"][name] for name in DATA_WAITS if name in line["metrics"]]
        waiting = min(max([0.0, *waits]), 1.0)
        if counts:
            self.spent.seconds["data"] += waiting * (end - begin) / 1000
            self.spent.seconds["steps"] += (1 - waiting) * (end - begin) / 1000
            self._until = end
        else:
            self._give("lost steps", end)
        self._part = "other"

    def take(self, line: Line) -> None:
        """Anything else happened."""
        self._see(line)
        between_steps = self._part == "other"
        kind = line.get("event")
        if kind == "failed":
            self.spent.failures += 1
            self._part = "recovery"
        elif kind == "rolled_back":  # its steps are done again without a line
            self._part = "recovery"
        elif kind == "checkpoint" and "stall_s" in line:  # written behind the steps
            self._stalls += float(line["stall_s"])
        elif kind == "checkpoint" and between_steps:
            self._give("saves", line["time_ms"])
        elif kind is None and GOODPUT not in line["metrics"] and between_steps:
            self._give("evaluation", line["time_ms"])

    def close(self, now_ms: int | None) -> Spending:
        """All was read, or it is `now_ms`."""
        self._give(self._part, max(self._last, now_ms or 0))
        seconds = self.spent.seconds
        stalls = min(self._stalls, seconds["other"])
        seconds["saves"] += stalls
        seconds["other"] -= stalls
        return self.spent

    def _see(self, line: Line) -> None:
        time_ms, attempt = line["time_ms"], line.get("attempt", 1)
        self._until = time_ms if self._until is None else self._until
        self._last = max(self._last, time_ms)
        if attempt > self._attempt:
            self._part = "recovery" if self._attempt else "start"
            self._attempt = attempt

    def _give(self, part: str, until: int) -> None:
        begin = until if self._until is None else self._until
        self.spent.seconds[part] += max(0, until - begin) / 1000
        self._until = max(begin, until)


def _lines(folder: Path) -> Iterator[Line]:
    """All lines of both files in the order of their times."""
    events, _ = read(folder / EVENTS)
    yield from heapq.merge(events, _metrics(folder / METRICS), key=lambda line: line["time_ms"])


def _metrics(path: Path) -> Iterator[Line]:
    offset = 0
    while True:
        lines, offset = read(path, offset, CHUNK_BYTES)
        if not lines:
            return
        yield from lines
