"""Watches how far the ranks of a gang come: names who hangs, and who is slow.

It is called with the gang's run several times a second, in the driver.

- A gang *hangs* when no rank has come on for longer than it may (`training/patience.py`). The
  stacks of all ranks are saved; the rank to blame is the one that did not enter the collective in
  which the others wait. The run then fails, and only that rank's process is killed.
- A rank is *slow* when its own work, without waits for others, takes clearly longer than that of
  the others, step after step. It is named, and nothing else happens. What each rank's own work
  takes is recorded now and then.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median, quantiles

from cluster.gang import GangRun, Silence
from cluster.heart import SAMPLE_S
from cluster.polls import OWN_SAMPLES
from orchestrator.training.patience import STEP, limit_s

SLOWER = 1.5  # its fastest quarter of steps, as a multiple of the slowest quarter of the others
PART_OF_STEP = 0.05  # what it takes longer, at least; less costs nobody anything
HOLD_S = 3.0  # that it must last, with the steps it is told by: each is slow for a moment
ANSWERS_S = 5.0  # who has answered within so long does answer
QUIET_STEPS = 100  # between two reports of one rank, and between two records of all
STACKS = "stacks-rank-{}.txt"

# What a rank waits in for its peers, as it stands in a stack.
COLLECTIVE = re.compile(
    r"torch/distributed/distributed_c10d\.py|deepspeed/comm/|/orchestrator/training/distributed\.py"
    r"|deepspeed/[^\n]* in wait$",
    re.MULTILINE,
)
THREAD = re.compile(r"^(?:Current thread|Thread) 0x", re.MULTILINE)
WORK = re.compile(r"cluster/worker\.py\", line \d+ in run$", re.MULTILINE)
FRAME = re.compile(r"File \"([^\"]+)\", line (\d+) in (.+)")

Event = Callable[..., None]


class Watchdog:
    """Of one attempt."""

    def __init__(self, hang_seconds: float, logs: Path, event: Event) -> None:
        """Nothing is known yet.

        Args:
            hang_seconds: how long nobody may come on, at least.
            logs: folder for the stacks of ranks that hang.
            event: records that something happened: its kind, and facts by name.
        """
        self._hang_seconds, self._logs, self._event = hang_seconds, logs, event
        self._reported: dict[int, int] = {}  # slow rank -> the step when it was last named
        self._slow_since: dict[int, float] = {}  # by the monotonic clock
        self._compared = 0  # the step whose own work was recorded last

    def __call__(self, run: GangRun) -> None:
        """Look at a run; may end it by `GangRun.fail_hung`."""
        silences = run.polls.silences()
        self._compare_ranks(run, silences)
        if silences and self._is_stuck(list(silences.values())):
            self._report_hang(run, silences)

    def _is_stuck(self, ranks: Sequence[Silence]) -> bool:
        """Whether none has come on for longer than it may.

        What a rank is busy with that does not answer is known by those that do: they wait for it.
        """
        heard = [own for own in ranks if own.answer_s < ANSWERS_S] or ranks
        limit = max(
            limit_s(own.progress.phase, own.progress.usual_s, self._hang_seconds) for own in heard
        )
        return min(own.beat_s for own in ranks) > limit

    def _report_hang(self, run: GangRun, silences: Mapping[int, Silence]) -> None:
        stacks = run.stacks()
        rank = to_blame(silences, stacks)
        for number, text in stacks.items():
            (self._logs / STACKS.format(number)).write_text(text)
        ahead = max((own.progress for own in silences.values()), key=lambda own: own.beats)
        phase, silent_s = ahead.phase, min(own.beat_s for own in silences.values())
        usual = ahead.usual_s.get(phase)
        often = f", which takes {usual:.2g} s as a rule" if usual is not None else ""
        message = f"no rank has come on for {silent_s:.0f} s in its {phase}{often}"
        if rank is None:
            message = f"all ranks hang, each in a collective with fewer than all: {message}"
        else:
            others = ", while the others wait for it in a collective" if len(silences) > 1 else ""
            place = innermost(stacks.get(rank, ""))
            message = f"hangs{f', in {place}' if place else ''}{others}: {message}"
        self._event(
            "hung",
            rank=rank,
            host=None if rank is None else run.workers[rank]["host"],
            step=ahead.step,
            phase=phase,
            silent_s=round(silent_s, 1),
            stacks=f"{self._logs.name}/{STACKS.format('*')}",
        )
        run.fail_hung(rank, message, silent_s)

    def _compare_ranks(self, run: GangRun, silences: Mapping[int, Silence]) -> None:
        own = {rank: [s for _, s in run.polls.own[rank]] for rank in silences}
        if len(own) < 2 or any(len(seconds) < OWN_SAMPLES for seconds in own.values()):
            return
        medians = {rank: round(median(seconds), 4) for rank, seconds in own.items()}
        reached = min(run.polls.own[rank][-1][0] for rank in own)
        if reached - self._compared >= QUIET_STEPS:
            self._compared = reached
            self._event("own_work", step=reached, seconds=medians)
        for rank, seconds in own.items():
            others = [s for other in own if other != rank for s in own[other]]
            step_s = silences[rank].progress.usual_s.get(STEP, 0.0)
            if not _is_slow(seconds, others, step_s):
                self._slow_since.pop(rank, None)
                continue
            step, now = run.polls.own[rank][-1][0], time.monotonic()
            lasted_s = (
                now - self._slow_since.setdefault(rank, now) + OWN_SAMPLES * max(step_s, SAMPLE_S)
            )
            long_enough = lasted_s >= HOLD_S
            if long_enough and step - self._reported.get(rank, -QUIET_STEPS) >= QUIET_STEPS:
                self._reported[rank] = step
                self._event(
                    "slow_rank",
                    rank=rank,
                    host=run.workers[rank]["host"],
                    step=step,
                    factor=round(median(seconds) / median(others), 2),
                    own_seconds=medians,
                )


def _is_slow(seconds: Sequence[float], others: Sequence[float], step_s: float) -> bool:
    """Whether a rank's own work in its last steps clearly takes longer than that of the others."""
    excess = median(seconds) - median(others)
    clear = quantiles(seconds, n=4)[0] > SLOWER * quantiles(others, n=4)[2]
    return clear and excess > PART_OF_STEP * step_s


def to_blame(silences: Mapping[int, Silence], stacks: Mapping[int, str]) -> int | None:
    """The rank that the others wait for; None: all wait, for each other.

    Args:
        silences: of all ranks at work.
        stacks: of those that could tell.
    """
    absent = [rank for rank in silences if not COLLECTIVE.search(work_in(stacks.get(rank, "")))]
    if not absent:
        counts = {own.progress.beats for own in silences.values()}
        absent = list(silences) if len(counts) > 1 else []
    return min(absent, key=lambda rank: (silences[rank].progress.beats, rank), default=None)


def work_in(stacks: str) -> str:
    """The stack of the thread that carries out the work; empty if there is none."""
    threads = THREAD.split(stacks)[1:]
    return next((thread for thread in threads if WORK.search(thread)), "")


def innermost(stacks: str) -> str:
    """Where the work is, e.g. `data/feed/loader.py:120 (read)`; empty if that is not known."""
    found = FRAME.search(work_in(stacks))
    if found is None:
        return ""
    path, line, function = found.groups()
    return f"{'/'.join(Path(path).parts[-2:])}:{line} ({function.strip()})"
