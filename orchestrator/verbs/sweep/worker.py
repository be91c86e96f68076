"""A process that carries out trials, one after another.

It is told by a connection, on the file descriptor that is its argument: an `Order` is a job, `Stop`
means that a trial is to save and end, `GoOn` that one which waits after a report is to go on, and a
path is that of its log. It answers with `Report` and `Ended`. When the connection is closed, by
will or by death, it saves what it is at and leaves.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from orchestrator.job.execute import Place, execute
from orchestrator.job.signals import handled, interrupt
from orchestrator.verbs.sweep.launching import Ended, GoOn, Order, Report, Stop


class Worker:
    """The process, and the trial that it carries out."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        """Nothing was told yet."""
        self._connection = connection
        self._orders: SimpleQueue[Order | None] = SimpleQueue()
        self._answers: SimpleQueue[bool] = SimpleQueue()
        """Whether a trial that waits is to end."""
        self._order: Order | None = None
        self._waits = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Carry out what comes until nobody is there any more."""
        threading.Thread(target=self._listen, daemon=True).start()
        _import_all()
        settled = False
        while (order := self._orders.get()) is not None:
            with self._lock:
                self._order = order
            refused = None
            try:
                refused = self._carry_out(order)
            except KeyboardInterrupt:  # before the job could hear it
                pass
            finally:
                with self._lock:  # what is told from here on must not meet the next trial
                    self._order = None
            try:
                self._connection.send(Ended(order.trial, refused))
            except OSError:
                return
            if not settled:  # each trial looks for garbage, 0.2 s among all that torch is made of
                gc.collect()
                gc.freeze()
                settled = True

    def _carry_out(self, order: Order) -> str | None:
        """Run the job; why it was refused, if it was."""
        sys.argv[1:] = order.command  # which the record takes for what was typed
        print(f"\ntrial {order.trial}: {order.folder}", flush=True)

        def judge(step: int, metrics: Mapping[str, float]) -> bool:
            return order.reports in metrics and self._ask(Report(order.trial, step, {**metrics}))

        try:
            place = Place(order.folder, order.sweep, judge)
            execute(order.config, order.words, time.monotonic(), place=place)
        except ValueError as error:
            return str(error)
        return None

    def _ask(self, report: Report) -> bool:
        """Whether the trial is to end after this report; it is if nobody is there any more."""
        with self._lock:
            self._waits = True
        try:
            self._connection.send(report)
        except OSError:
            return True
        return self._answers.get()

    def _listen(self) -> None:
        """Hand on what is told; runs in a thread of its own."""
        while True:
            try:
                told: Order | Stop | GoOn | Path = self._connection.recv()
            except (EOFError, OSError):
                self._stop(None)
                self._orders.put(None)
                return
            if isinstance(told, Order):
                self._orders.put(told)
            elif isinstance(told, Path):
                _write_to(told)
            elif isinstance(told, Stop):
                self._stop(told.trial)
            else:
                self._answer(False)

    def _answer(self, stop: bool) -> bool:
        """Answer the trial; false if it does not wait."""
        with self._lock:
            waited, self._waits = self._waits, False
        if waited:
            self._answers.put(stop)
        return waited

    def _stop(self, trial: int | None) -> None:
        """Have that trial, or whichever it is, save and end, if it still goes on."""
        if self._answer(True):
            return
        with self._lock:
            if self._order is not None and trial in (None, self._order.trial):
                os.kill(os.getpid(), signal.SIGTERM)  # as a job is stopped by anybody


def _write_to(log: Path) -> None:
    """Have the output of this process go to the end of a file from now on."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())


def _import_all() -> None:
    """What every trial needs, while the first is still being composed."""
    import torch  # noqa: F401

    import orchestrator.stages  # noqa: F401


def main() -> None:
    """Entry point of the process."""
    with handled(interrupt):
        Worker(Connection(int(sys.argv[1]))).run()


if __name__ == "__main__":
    main()
