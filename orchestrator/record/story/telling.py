"""A run on one screen: how it ended and why, what happened, what was lost, where the time went."""

import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.messages import clock, counted, override, size
from orchestrator.record.checkpoints.finding import published, read_complete
from orchestrator.record.checkpoints.manifest import FOLDER, CheckpointError
from orchestrator.record.lines import EVENTS
from orchestrator.record.runs import LOST, RUNNING, Run
from orchestrator.record.standing import Standing
from orchestrator.record.story.sentences import seconds, sentence, where
from orchestrator.record.story.spending import spending

FIRST, LAST = 4, 10  # sentences of a long story
QUIET = ("best", "checkpoint", "drift", "weights")  # kinds that other parts of the screen tell
SILENT_S, SILENT_STEPS = 30.0, 5  # a running job that says nothing for longer may hang
SLOWEST = 5  # parts of the time
NEWEST = 4  # checkpoints


class Story:
    """What is told of a run; reads its folder once, when it is made."""

    def __init__(self, run: Run) -> None:
        """Read the run.

        Raises:
            ValueError: its journal can't be read.
        """
        self.run, self.status = run, run.status
        self.now_ms = time.time_ns() // 1_000_000 if self.status == RUNNING else None
        try:
            self.standing = Standing.read(run.folder)
            alive = self.status == RUNNING
            self.spent = spending(run.folder, self.standing, now_ms=self.now_ms, goes_on=alive)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise ValueError(
                f"the journal of {run.folder} can't be read: {type(error).__name__}: {error}"
            ) from None

    def parts(self) -> Iterator[tuple[str, list[str]]]:
        """Heading and lines of each part; those without lines are left out."""
        told = {
            "": [f"{self.run.folder}", f"{self.run.stage}, {self.run.model}: {self._ending()}"],
            "why": self._why(),
            "what happened": happened(self.run),
            "what it cost": self._cost(),
            "where the time went": self._slowest(),
            "checkpoints": self._checkpoints(),
            "what to do": self._next(),
        }
        yield from ((heading, lines) for heading, lines in told.items() if lines)

    def _ending(self) -> str:
        wall, step = self.spent.wall_s, self._step()
        if self.status == RUNNING:
            return f"running for {clock(wall)}, {step}"
        if self.status == LOST:
            return f"lost its driver after {clock(wall)}, {step}"
        return f"{self.status} after {clock(wall)}, {step}"

    def _step(self) -> str:
        asked, done = self.run.settings.get("stage.steps"), self.standing.step
        if asked is None:
            return "no steps" if not done else f"step {done}"
        return f"step {done} of {asked}"

    def _why(self) -> list[str]:
        error = self.run.result.get("error")
        if isinstance(error, Mapping):
            who = where(error)
            return [f"{who} {error.get('message')}".strip() + f" ({error.get('class')})"]
        if reason := self.run.result.get("reason"):
            return [f"ended early: {reason}"]
        host, pid = self.run.driver
        if self.status == RUNNING:
            return [self._now(host, pid)]
        if self.status != LOST:
            return []
        return [
            f"process {pid} on host {host}, which drove it, is gone and left no word: it was "
            f"killed, or its host went down; its record ends at {_at(self.standing.last_ms)}"
        ]

    def _now(self, host: Any, pid: Any) -> str:
        """What a living run does."""
        assert self.now_ms is not None
        heard = (self.now_ms - (self.standing.last_ms or self.now_ms)) / 1000
        last = next((s for event in reversed(self.run.events) if (s := sentence(event))), "")
        doing = "training" if self.standing.working == self.standing.attempt else last
        elsewhere = "" if host == socket.gethostname() else " (not this host)"
        text = f"{doing}; process {pid} on host {host}{elsewhere}, last heard of {heard:.1f} s ago"
        bound = max(SILENT_S, SILENT_STEPS * (self.spent.step_seconds or 0.0))
        if heard > bound and self.standing.step:
            text += f": longer than {bound:.0f} s, it may hang; see its logs"
        return text

    def _cost(self) -> list[str]:
        spent = self.spent
        if spent.goodput is None:
            return []
        lines = [
            f"goodput {spent.goodput:.0%}: {counted(spent.steps, 'step')} x "
            f"{spent.step_seconds:.3g} s / {spent.wall_s:.1f} s"
        ]
        attempts = counted(self.standing.attempt, "attempt")
        if spent.failures or spent.lost_steps or self.standing.attempt > 1:
            again, recovery = spent.seconds["lost steps"], spent.seconds["recovery"]
            lines.append(
                f"{attempts}, {counted(spent.failures, 'failure')}; "
                f"lost {counted(spent.lost_steps, 'step')} ({seconds(again)})"
                + (f", {seconds(recovery)} until it ran again" if recovery else "")
            )
        else:
            lines.append(f"{attempts}, no failure, nothing lost")
        return lines

    def _slowest(self) -> list[str]:
        parts = sorted(self.spent.seconds.items(), key=lambda part: -part[1])
        wall = self.spent.wall_s
        shown = [(name, took) for name, took in parts[:SLOWEST] if took >= 0.01 * wall and wall]
        texts = [f"{name} {took / wall:.0%} ({took:.1f} s)" for name, took in shown]
        return ["  ".join(texts)] if texts else []

    def _checkpoints(self) -> list[str]:
        lines = []
        for path in published(self.run.folder / FOLDER)[::-1][:NEWEST]:
            try:
                found = read_complete(path)
            except CheckpointError as error:
                lines.append(f"{path.name}  not whole: {error}")
            else:
                lines.append(f"{path.name}  {size(found.bytes)}")
        best = self.standing.best
        if best is not None:
            value = best["value"]
            lines.append(f"best: {Path(best['checkpoint']).name}, {best['metric']} {value:.4g}")
        return lines

    def _next(self) -> list[str]:
        run, folder = self.run, shlex.quote(str(self.run.folder))
        error = run.result.get("error")
        lines = [str(error["remedy"])] if isinstance(error, Mapping) and "remedy" in error else []
        saved = self.standing.checkpoint is not None
        if self.status == RUNNING:
            return [f"tail -f {folder}/logs/rank-0.log"]
        if self.status == "done":
            return [f"orchestrate show {folder}"]
        if saved:
            return [*lines, f"orchestrate run {override('resume', str(run.folder))}"]
        return [*lines, "start again: there is no checkpoint to go on from"]


def happened(run: Run) -> list[str]:
    """What happened to a run, in the order of time: the first events and the last ones."""
    told = [
        f"{_at(event.get('time_ms'))}  {said}"
        for event in run.events
        if event.get("event") not in QUIET and (said := sentence(event)) is not None
    ]
    if len(told) > FIRST + LAST:
        left_out = f"... {counted(len(told) - FIRST - LAST, 'event')} more in {EVENTS}"
        told = [*told[:FIRST], left_out, *told[-LAST:]]
    return told


def story_text(run: Run) -> str:
    """The story as a text. Raises ValueError, as `Story`."""
    parts = ("\n".join(filter(None, [heading, *lines])) for heading, lines in Story(run).parts())
    return "\n\n".join(parts) + "\n"


def _at(time_ms: Any) -> str:
    known = isinstance(time_ms, int | float)
    return time.strftime("%H:%M:%S", time.localtime(time_ms / 1000)) if known else "--:--:--"
