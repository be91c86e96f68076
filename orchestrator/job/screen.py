"""What a job shows while it runs: a live bar in a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PLAIN_SECONDS = 10.0  # between two plain lines without an evaluation
SMOOTHING = 0.9  # of the shown throughput, per step


class Progress:
    """Follows the records of a job. The driver is its only caller."""

    def __init__(self, steps: int, console: Console) -> None:
        """Show nothing yet; `steps` is the last step of the job."""
        self.console = console
        self._steps = steps
        self.step = 0
        self.seen: dict[str, float] = {}
        self._rate: float | None = None
        self.checkpoint: int | None = None
        self._phase = ""
        self._first: tuple[int, float] | None = None  # step and time of the first metrics
        self._plain_at = 0.0
        self._live = (
            Live(console=console, get_renderable=self._bar, refresh_per_second=4, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "Progress":
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

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Take in the metrics of a step."""
        now = time.monotonic()
        self.step = step
        self.seen |= values
        if "train/tokens_per_second" in values:
            rate = values["train/tokens_per_second"]
            old = self._rate if self._rate is not None else rate
            self._rate = SMOOTHING * old + (1 - SMOOTHING) * rate
            self._first = self._first or (step, now)
        if "validation/loss" in values:
            self.say(f"{self._text()}  {self._validation()}")
            self._plain_at = now
        elif not self._live and now - self._plain_at > PLAIN_SECONDS:
            self.say(self._text())
            self._plain_at = now
        self._phase = ""

    def event(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Take in an event of the job."""
        if kind == "checkpoint":
            self.checkpoint = int(facts["step"])
        elif kind == "resumed":
            self.say(f"resumed after step {facts['step']} from {facts['path']}")
        elif kind == "checkpoint_rejected":
            self.say(f"passed over: {facts['reason']}")

    def _validation(self) -> str:
        loss, bits = self.seen["validation/loss"], self.seen["validation/bits_per_byte"]
        return f"validation loss {loss:.3f}  {bits:.3f} bits/byte"

    def _text(self, *, live: bool = False) -> str:
        """The state of the job in one line; the live one fits a terminal of 80 columns."""
        seen = self.seen
        parts = [f"step {self.step}/{self._steps}"]
        if "train/loss" in seen:
            parts.append(f"loss {seen['train/loss']:.3f}")
        if live and "validation/loss" in seen:
            parts.append(f"{seen['validation/bits_per_byte']:.3f} bits/byte")
        if self._rate is not None:
            parts.append(f"{self._rate:,.0f} tokens/s")
        if "train/mfu" in seen:
            parts.append(f"MFU {seen['train/mfu']:.1%}")
        left = self._seconds_left()
        if left is not None and self.step < self._steps:
            parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        if self.checkpoint is not None:
            parts.append(f"saved {self.checkpoint}")
        return "  ".join(parts)

    def _seconds_left(self) -> float | None:
        if self._first is None or self.step <= self._first[0]:
            return None
        done = self.step - self._first[0]
        return (time.monotonic() - self._first[1]) / done * (self._steps - self.step)

    def _bar(self) -> Table:
        table = Table.grid(padding=(0, 1))
        if self._phase:
            table.add_row(self._phase)
        else:
            bar = ProgressBar(total=self._steps, completed=self.step, width=10)
            table.add_row(bar, Text(self._text(live=True), no_wrap=True, overflow="ellipsis"))
        return table
