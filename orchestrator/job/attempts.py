"""The attempts of a run: after a failure it goes on from its newest checkpoint, by itself.

1. A gang starts, and its ranks carry out the stage.
2. If that fails, the failure is classified; its class has a budget and a wait (config/recovery.py).
3. What happened, what is lost and what comes next is said in a sentence, and stands in the journal.
4. Workers that live on are kept, those that died are replaced, and all begin the next attempt: the
   stage itself finds the checkpoint to go on from.
5. A class whose budget is spent ends the run with its last failure.

A run in this process, or under torchrun, has one attempt: nobody is left to begin another.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.gang import Files, Gang, OnRecords, Placement
from data.messages import counted
from orchestrator.config import BUDGETS, RecoveryConfig
from orchestrator.job.failures import Explanation, explain_failure
from orchestrator.job.rank import Assignment, environment, work
from orchestrator.job.signals import Stops
from orchestrator.job.watchdog import Watchdog
from orchestrator.record.fencing import take
from orchestrator.record.journal import Journal
from orchestrator.record.outbox import unheard

if TYPE_CHECKING:
    from orchestrator.stages.result import Result

SILENT_AFTER_S = 45.0  # a rank that answers nothing for so long is frozen, or its host is gone
LOOK_S = 0.2


@dataclass
class Budgets:
    """How many restarts each class of failure has had since there was a new checkpoint."""

    config: RecoveryConfig

    def __post_init__(self) -> None:
        """Nothing has failed yet."""
        self._spent: dict[str, int] = {}
        self._from_step = -1
        self._last: tuple[str, int] | None = None

    def charge(self, failure: Explanation, step: int, from_step: int) -> float | None:
        """Seconds to wait before the restart after this failure. None: the run ends with it.

        Args:
            failure: what ended the attempt.
            step: the last step that was done.
            from_step: the step of the newest checkpoint, from which the run would go on.
        """
        if from_step > self._from_step:
            self._spent, self._from_step = {}, from_step
        cause, now = failure.failure, (failure.message, step)
        spent, again = self._spent.get(cause, 0), now == self._last
        self._last = now
        if sum(self._spent.values()) >= self.config.max_restarts:
            return None
        if spent >= self.config.restarts(cause):
            return None
        # An error of the code before any step was done is there to be mended, not tried again.
        if cause == "user_error" and (again or step <= from_step):
            return None
        self._spent[cause] = spent + 1
        return self.config.wait_s(cause, spent)


@dataclass(frozen=True)
class _Unrecovered:
    """A failure after which no step has been done yet."""

    seen_at: float
    """By the monotonic clock."""
    detect_s: float | None


class Attempts:
    """The attempts of one run in gangs of Ray workers, seen from the driver."""

    def __init__(
        self,
        assignment: Assignment,
        journal: Journal,
        *,
        start_step: int,
        files: Files,
        take: OnRecords,
        admitted: Callable[[list[dict[str, Any]]], None],
        look_at_checkpoints: Callable[[], None],
        ends_with: Callable[[Exception], None],
        say: Callable[[str], None],
        stops: Stops,
    ) -> None:
        """Nothing has started yet.

        Args:
            assignment: what every rank gets.
            journal: of the run; its attempt is raised here.
            start_step: steps done before the run began.
            files: what the ranks open.
            take: gets each rank's records, in order.
            admitted: gets a description of each worker of an attempt before its work begins.
            look_at_checkpoints: puts a checkpoint on record that a rank did not live to tell of.
            ends_with: gets the failure that no other attempt follows, before the gang is ended.
            say: gets a line for the user.
            stops: what the user has asked for so far.
        """
        self._assignment, self._journal, self._start_step = assignment, journal, start_step
        self._take, self._admitted, self._say, self._stops = take, admitted, say, stops
        self._files, self._look_at_checkpoints = files, look_at_checkpoints
        self._ends_with = ends_with
        self._budgets = Budgets(assignment.config.recovery)
        self._heard = 0  # records of rank 0 in this attempt
        self._unrecovered: _Unrecovered | None = None
        self._gang: Gang | None = None

    def run(self) -> Result:
        """Carry out the stage, in as many attempts as it takes; returns rank 0's result.

        Raises:
            Exception: the failure with which the run ends.
            KeyboardInterrupt: the user wants it to end.
        """
        with ExitStack() as stack:
            while True:
                try:
                    return self._attempt(stack)
                except KeyboardInterrupt:
                    self._forget_records()
                    raise
                except Exception as error:
                    self._prepare_next(error, stack)

    def _attempt(self, stack: ExitStack) -> Result:
        """Start the gang, or what is missing in it, and have the work done."""
        self._heard = 0
        if self._gang is None:
            self._gang = stack.enter_context(self._new_gang())
            workers = self._gang.start()
        else:
            # What a process keeps of a failed NCCL communicator is of no use to the next one.
            workers = self._gang.restart(keep=self._assignment.config.resources.device == "cpu")
        self._admitted(workers)
        results: list[Result] = self._gang.run(
            work,
            self._assignment,
            self._on_records,
            silent_after_s=SILENT_AFTER_S,
            watch=self._watchdog(),
        )
        self._forget_records()
        return results[0]

    def _new_gang(self) -> Gang:
        config = self._assignment.config
        resources = config.resources
        return Gang(
            Placement(
                resources.workers,
                resources.cpus_per_worker,
                resources.gpus_per_worker,
                resources.address,
            ),
            log_folder=self._assignment.folder / "logs",
            env=environment(config),
            files=self._files,
            say=self._say,
            stop=self._stops.stop,
            kill=self._stops.kill,
        )

    def _watchdog(self) -> Watchdog | None:
        limit_s = self._assignment.config.resources.hang_after
        logs = self._assignment.folder / "logs"

        def event(kind: str, **facts: Any) -> None:
            self._take(0, [{"event": kind, **facts}])

        return None if limit_s is None else Watchdog(limit_s, logs, event)

    def _on_records(self, rank: int, records: list[dict[str, Any]]) -> None:
        """Hand on what a rank has sent; the first step after a failure ends the recovery."""
        if rank == 0:
            self._heard += len(records)
        self._take(rank, records)
        failed, step = self._unrecovered, next((r["step"] for r in records if "metrics" in r), None)
        if failed is not None and step is not None:
            seconds = round(time.monotonic() - failed.seen_at, 3)
            self._journal.event("recovered", step=step, seconds=seconds, detect_s=failed.detect_s)
            self._say(f"recovered: step {step} is done, {seconds:.1f} s after the failure was seen")
            self._unrecovered = None

    def _prepare_next(self, error: Exception, stack: ExitStack) -> None:
        """Put the failure on record and get ready for another attempt.

        Raises:
            Exception: the error, if there is to be none.
            Fenced: another process has taken the run.
        """
        seen_at = getattr(error, "seen_at", time.monotonic())
        seen_after_s = getattr(error, "seen_after_s", None)
        detect_s = None if seen_after_s is None else round(seen_after_s, 3)
        self._forget_records()
        attempt = self._journal.attempt + 1
        self._journal.check()  # who was fenced off does not take the run back
        self._journal.fence = take(self._assignment.folder, attempt)
        self._look_at_checkpoints()
        standing = self._journal.standing
        step, from_step = standing.step, standing.checkpoint_step or self._start_step
        failure = explain_failure(error, step or None)
        self._journal.event(
            "failed",
            cause=failure.failure,
            rank=failure.rank,
            host=failure.host,
            step=step,
            message=failure.message,
            detect_s=detect_s,
        )
        wait_s = None if self._asked_to_end else self._budgets.charge(failure, step, from_step)
        if wait_s is None:
            self._give_up(failure)
            self._ends_with(error)
            raise error
        remedy = BUDGETS[failure.failure].remedy
        self._say(
            f"attempt {attempt - 1} failed: {failure.happened}; attempt {attempt} goes on from "
            f"step {from_step}, {counted(step - from_step, 'step')} lost"
            + (f", after {wait_s:g} s" if wait_s else "")
            + f": {remedy}"
        )
        if self._gang is None or (failure.rank is None and failure.failure == "node_lost"):
            stack.close()  # there is no gang, or it has lost its Ray
            self._gang = None
        self._wait(wait_s)
        self._unrecovered = _Unrecovered(seen_at, detect_s)
        self._journal.attempt = attempt
        self._assignment = replace(self._assignment, fence=self._journal.fence)
        self._journal.event(
            "restarting",
            remedy=remedy,
            from_step=from_step,
            lost_steps=step - from_step,
            workers=self._assignment.config.resources.workers,
        )

    def _give_up(self, failure: Explanation) -> None:
        """Say that a run that has recovered, or might have, ends with this failure."""
        attempts, config = self._journal.attempt, self._budgets.config
        budget = config.restarts(failure.failure)
        self._journal.event("gave_up", cause=failure.failure, budget=budget, attempts=attempts)
        if attempts > 1 and not self._asked_to_end:
            budgeted = f"{counted(budget, 'restart')} in a row for {failure.failure}"
            self._say(f"gave up after {counted(attempts, 'attempt')}: {budgeted} at most")

    @property
    def _asked_to_end(self) -> bool:
        return self._stops.stop.is_set() or self._stops.kill.is_set()

    def _wait(self, seconds: float) -> None:
        """Wait before the next attempt, unless the user wants the run to end."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._asked_to_end:
                raise KeyboardInterrupt("the job was stopped while it waited to start again")
            time.sleep(min(left, LOOK_S))

    def _forget_records(self) -> None:
        """Take what rank 0 has written down and the driver has not heard; the file goes."""
        folder, attempt = self._assignment.folder, self._assignment.attempt
        if missed := unheard(folder, attempt, self._heard):
            self._on_records(0, missed)
