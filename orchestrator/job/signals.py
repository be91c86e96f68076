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
    saves: bool
    """Whether the stage saves checkpoints; if not, there is nothing to wait for."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Finish this step, save, and leave."""
    kill: threading.Event = field(default_factory=threading.Event)
    """Leave now."""
    stepped: bool = False
    """A step is done, so there is something to save."""
    over: bool = False
    """The work has ended; its result is written, whatever comes."""
    _sending: bool = False
    _heard: bool = False

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear signals while the block runs."""
        with handled(self._on_signal):
            yield

    @contextmanager
    def sending(self) -> Iterator[None]:
        """While the record is sent to MLflow, which Ctrl-C ends by KeyboardInterrupt: once, if the
        job was stopped before, else twice."""
        self._sending = True
        try:
            yield
        finally:
            self._sending = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self._heard = self._heard and number == signal.SIGINT, True
        if self.over:
            if self._sending and again:
                raise KeyboardInterrupt
            if self._sending:
                self.say("the job is over; its record is being sent to MLflow; Ctrl-C ends that")
        elif again or not self.saves:
            if not self.kill.is_set():
                self.kill.set()
                self.say("stopping now")
            if self.inline:
                raise KeyboardInterrupt
        elif not self.stop.is_set():
            self.stop.set()
            what = "after this step with a checkpoint" if self.stepped else "before the first step"
            self.say(f"stopping {what}; Ctrl-C stops now")


@contextmanager
def handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have a handler for all signals that ask to stop; only the main thread may have one.

    `nohup` has others started without SIGHUP; that stays so.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        heeded = [number for number in SIGNALS if not (ignored and number == signal.SIGHUP)]
        before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def interrupt(number: int, frame: FrameType | None) -> None:
    """The handler of a command that has nothing to save."""
    raise KeyboardInterrupt
