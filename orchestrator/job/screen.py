"""What a job shows while it runs: a live bar in a terminal, plain lines elsewhere.

It shows what the stage's outline names and keeps nothing that anybody else needs.
"""

import errno
import textwrap
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from data.messages import Passing, clock
from orchestrator.record.redaction import Redactor
from orchestrator.record.standing import Standing
from orchestrator.record.story.sentences import LIVE, sentence
from orchestrator.stages import Outline
from orchestrator.terminal import fitted, fitted_parts, leave_reader

PLAIN_SECONDS = 10.0  # between two plain lines without an evaluation
BAR = 10  # columns
MAJOR = 2  # of the metrics of training come before the time left
FULL = (errno.ENOSPC, errno.EDQUOT)  # a disk, to which the output goes, and may again
SMOOTHING = 0.9  # of the shown throughput, per step


class Terminal(Console):
    """Standard output without secrets; its reader may go away while a job goes on."""

    def __init__(self, redactor: Redactor, **options: Any) -> None:
        """Hide what `redactor` knows: what is on the screen is kept by CI and screenshots."""
        super().__init__(**options)
        self._redactor = redactor

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, if somebody is still there."""
        shown = (self._redactor.known(o) if isinstance(o, str) else o for o in objects)
        try:
            super().print(*shown, **options)
        except OSError as error:
            if error.errno not in FULL:  # the terminal is gone
                self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Go on without a reader; rich would end the program."""
        self.quiet = True
        leave_reader()

    def say(self, text: str, hang: int = 2) -> None:
        """Print text as it is, in lines that fit a terminal (`terminal.fitted`)."""
        shown = fitted(self._redactor.known(text), self.fitting, hang)
        self.print(shown, highlight=False, soft_wrap=True, markup=False)

    @property
    def fitting(self) -> int | None:
        """Columns that lines must fit; None where it is no terminal."""
        return self.width if self.is_terminal else None


class Screen:
    """Follows the record of a job. The driver is its only caller."""

    def __init__(self, outline: Outline, console: Terminal) -> None:
        """Show nothing yet."""
        self.console = console
        self._outline = outline
        self._standing = Standing()
        self._rates: dict[str, float] = {}  # smoothed
        self._phase, self._phase_begun = "", time.monotonic()
        self._first: tuple[int, float] | None = None  # step and time of the first metrics
        self._plain_at = 0.0
        self._live = (
            Live(console=console, get_renderable=self._bar, refresh_per_second=4, transient=True)
            if console.is_terminal and not console.is_dumb_terminal
            else None
        )

    def __enter__(self) -> "Screen":
        """Start the live display, if there is a terminal."""
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the live display off the screen."""
        self.close()

    def close(self) -> None:
        """Take the live display off the screen; a second call does nothing."""
        if self._live:
            self._live.stop()

    def say(self, text: str, hang: int = 2) -> None:
        """Print a line above the bar; in a terminal a Passing one is the bar, with a clock."""
        if self._live and isinstance(text, Passing):
            self.phase(text)
        else:
            self.console.say(text, hang)

    def phase(self, text: str) -> None:
        """Show what the job is busy with before its first step or after its last."""
        if text.partition(":")[0] != self._phase.partition(":")[0]:
            self._phase_begun = time.monotonic()
        self._phase = text
        if not self._live:
            self.say(text)

    def metrics(self, standing: Standing, values: Mapping[str, float]) -> None:
        """Take in new metrics of a step, and how far the job is with them."""
        if not self._outline.steps:  # its metrics come at its end, in a table
            return
        now = time.monotonic()
        self._standing = standing
        for shown in self._outline.training:
            if shown.rate and shown.metric in values:
                rate = values[shown.metric]
                old = self._rates.get(shown.metric, rate)
                self._rates[shown.metric] = SMOOTHING * old + (1 - SMOOTHING) * rate
        self._first = self._first or (standing.step, now)
        evaluated = [
            shown.text.format(values[shown.metric])
            for shown in self._outline.evaluation
            if shown.metric in values
        ]
        if evaluated:
            self._say_parts(self._parts())
            self._say_parts([self._at(), *evaluated])
            self._plain_at = now
        elif not self._live and now - self._plain_at > PLAIN_SECONDS:
            self._say_parts(self._parts())
            self._plain_at = now
        self._phase = ""

    def event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Take in an event of the job."""
        if kind == "sampled":
            self.say("| " + textwrap.shorten(facts["texts"][0], 76, placeholder=" ..."))
        elif kind in LIVE:
            self.say(str(sentence({**facts, "event": kind})))

    def _at(self) -> str:
        return f"step {self._standing.step}/{self._outline.steps}"

    def _parts(self) -> list[str]:
        """The state of the job, what matters most first."""
        seen = self._standing.metrics
        shown = [
            own.text.format(self._rates[own.metric] if own.rate else seen[own.metric])
            for own in self._outline.training
            if own.metric in seen
        ]
        parts = [self._at(), *shown[:MAJOR]]
        left = self._seconds_left()
        if left is not None and self._standing.step < self._outline.steps:
            parts.append(f"{clock(left)} left")
        if self._standing.checkpoint_step is not None:
            parts.append(f"saved {self._standing.checkpoint_step}")
        return [*parts, *shown[MAJOR:]]

    def _say_parts(self, parts: list[str]) -> None:
        self.console.say(fitted_parts(parts, self.console.fitting))

    def _seconds_left(self) -> float | None:
        if self._first is None or self._standing.step <= self._first[0]:
            return None
        done = self._standing.step - self._first[0]
        left = self._outline.steps - self._standing.step
        return (time.monotonic() - self._first[1]) / done * left

    def _bar(self) -> Table:
        table = Table.grid(padding=(0, 1))
        if self._phase:
            gone = clock(time.monotonic() - self._phase_begun)
            table.add_row(Text(f"{gone}  {self._phase}", no_wrap=True, overflow="ellipsis"))
        else:
            total, done = self._outline.steps, self._standing.step
            bar = ProgressBar(total=total, completed=done, width=BAR)
            table.add_row(bar, Text(self._fitting(self.console.width - BAR - 2), no_wrap=True))
        return table

    def _fitting(self, width: int) -> str:
        """As much of the state of the job as fits."""
        parts = self._parts()
        while len(parts) > 1 and len("  ".join(parts)) > width:
            parts.pop()
        return "  ".join(parts)
