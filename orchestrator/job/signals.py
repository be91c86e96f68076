"""Ctrl-C, SIGTERM and a lost terminal: once to stop with a checkpoint; Ctrl-C twice: stop now."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Stops:
    """What was asked for so far, for those who look now and then."""

    say: Callable[[str], None]
    inline: bool
    """Whether the ranks' work runs in the main thread, which only an exception stops at once."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Finish this step, save, and leave."""
    kill: threading.Event = field(default_factory=threading.Event)
    """Leave now."""
    over: bool = False
    """The work has ended; only its record is still being sent."""

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals while the block runs; a thread that is not the main one hears none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in heeded()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.over:
            self.say("the job is over; its record is still being sent to MLflow")
        elif self.stop.is_set() and number == signal.SIGINT:
            self.kill.set()
            if self.inline:
                raise KeyboardInterrupt
        elif not self.stop.is_set():
            self.stop.set()
            self.say("stopping after this step with a checkpoint; Ctrl-C stops now")


def heeded() -> list[signal.Signals]:
    """The signals that mean something here: `nohup` has others started without SIGHUP."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
