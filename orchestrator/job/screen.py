"""What a job shows while it runs: a live bar in a terminal, plain lines elsewhere.

It shows what the stage's outline names and keeps nothing that anybody else needs.
"""

import os
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

from orchestrator.record.redaction import Redactor
from orchestrator.record.standing import Standing
from orchestrator.stages import Outline

PLAIN_SECONDS = 10.0  # between two plain lines without an evaluation
SMOOTHING = 0.9  # of the shown throughput, per step


class Terminal(Console):
    """Standard output without secrets; its reader may go away while a job goes on."""

    def __init__(self, redactor: Redactor) -> None:
        """Hide what `redactor` knows: what is on the screen is kept by CI and screenshots."""
        super().__init__()
        self._redactor = redactor

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, if somebody is still there."""
        shown = (self._redactor.known(o) if isinstance(o, str) else o for o in objects)
        try:
            super().print(*shown, **options)
        except OSError:  # the terminal is gone
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Go on without a reader; rich would end the program."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)  # else the interpreter fails at its end, when it flushes
        os.close(nowhere)


class Screen:
    """Follows the record of a job. The driver is its only caller."""

    def __init__(self, outline: Outline, console: Console) -> None:
        """Show nothing yet."""
        self.console = console
        self._outline = outline
        self._standing = Standing()
        self._rates: dict[str, float] = {}  # smoothed
        self._phase = ""
        self._first: tuple[int, float] | None = None  # step and time of the first metrics
        self._plain_at = 0.0
        self._live = (
            Live(console=console, get_renderable=self._bar, refresh_per_second=4, transient=True)
            if console.is_terminal
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

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def phase(self, text: str) -> None:
        """Show what the job is busy with before its first step or after its last."""
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
            self.say("  ".join([self._text(), *evaluated]))
            self._plain_at = now
        elif not self._live and now - self._plain_at > PLAIN_SECONDS:
            self.say(self._text())
            self._plain_at = now
        self._phase = ""

    def event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Take in an event of the job."""
        if kind == "resumed":
            self.say(f"resumed after step {facts['step']} from {facts['path']}")
        elif kind == "checkpoint_rejected":
            self.say(f"passed over: {facts['reason']}")
        elif kind == "sampled":
            self.say("| " + textwrap.shorten(facts["texts"][0], 76, placeholder=" ..."))

    def _text(self, *, live: bool = False) -> str:
        """The state of the job in one line; the live one fits a terminal of 80 columns."""
        seen, steps = self._standing.metrics, self._outline.steps
        parts = [f"step {self._standing.step}/{steps}"]
        also = self._outline.evaluation[1:2] if live else ()
        for shown in (*self._outline.training, *also):
            if shown.metric in seen:
                value = self._rates[shown.metric] if shown.rate else seen[shown.metric]
                parts.append(shown.text.format(value))
        left = self._seconds_left()
        if left is not None and self._standing.step < steps:
            parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        if self._standing.checkpoint_step is not None:
            parts.append(f"saved {self._standing.checkpoint_step}")
        return "  ".join(parts)

    def _seconds_left(self) -> float | None:
        if self._first is None or self._standing.step <= self._first[0]:
            return None
        done = self._standing.step - self._first[0]
        left = self._outline.steps - self._standing.step
        return (time.monotonic() - self._first[1]) / done * left

    def _bar(self) -> Table:
        table = Table.grid(padding=(0, 1))
        if self._phase:
            table.add_row(self._phase)
        else:
            total, done = self._outline.steps, self._standing.step
            bar = ProgressBar(total=total, completed=done, width=10)
            table.add_row(bar, Text(self._text(live=True), no_wrap=True, overflow="ellipsis"))
        return table
