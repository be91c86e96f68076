"""The attempts of a run: after a failure it goes on from its newest checkpoint, by itself.

1. A gang starts, and its ranks carry out the stage.
2. If that fails, the failure is classified; its class has a budget and a wait (config/recovery.py).
3. What happened, what is lost and what comes next is said in a sentence, and stands in the journal.
   Where the disk is full, that waits until there is room.
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

from cluster.gang import Files, Gang, GangRun, OnRecords
from data.messages import size
from orchestrator.config import BUDGETS
from orchestrator.job.budgets import Budgets
from orchestrator.job.failures import Explanation, explain_failure
from orchestrator.job.rank import Assignment, environment, work
from orchestrator.job.room import SPARE, wait_for_room
from orchestrator.job.signals import Stops
from orchestrator.job.watchdog import Watchdog
from orchestrator.plan.devices import placement_of
from orchestrator.record.fencing import take
from orchestrator.record.journal import Journal
from orchestrator.record.outbox import unheard
from orchestrator.record.story.sentences import sentence

if TYPE_CHECKING:
    from orchestrator.stages.result import Result

SILENT_AFTER_S = 45.0  # a rank that answers nothing for so long is frozen, or its host is gone
LOOK_S = 0.2
LOOK_AT_CLUSTER_S = 1.0
GROW_EVERY_S = 60.0  # at most: others may be faster to take the room


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
        checkpoint_bytes: int,
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
            checkpoint_bytes: room for so much must be on a disk that was full.
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
        self._room = checkpoint_bytes + SPARE
        self._files, self._look_at_checkpoints = files, look_at_checkpoints
        self._ends_with = ends_with
        self._budgets = Budgets(assignment.config.recovery)
        self._heard = 0  # records of rank 0 in this attempt
        self._over = False  # whether what ranks still say of this attempt comes too late
        self._unrecovered: _Unrecovered | None = None
        self._job = assignment.config
        self._stack = ExitStack()  # ends the gang
        self._gang: Gang | None = None
        self._workers = 0  # of the attempt before this one
        self._reason = ""  # why there is another attempt
        self._watchdog: Watchdog | None = None
        self._must_leave: dict[int, str] = {}  # ranks, and how that was told
        self._grows = False  # whether this attempt ends to make room for a larger one
        self._look_at = self._grow_at = 0.0  # not before, by the monotonic clock

    def run(self) -> Result:
        """Carry out the stage, in as many attempts as it takes; returns rank 0's result.

        Raises:
            Exception: the failure with which the run ends.
            KeyboardInterrupt: the user wants it to end.
        """
        with ExitStack() as self._stack:
            while True:
                try:
                    result = self._attempt()
                    if not (result.stopped and self._goes_on_elsewhere()):
                        return result
                except KeyboardInterrupt:
                    self._take_unheard()
                    raise
                except Exception as error:
                    self._go_on_after(error)

    def _attempt(self) -> Result:
        """Start the gang, or what is missing in it, and have the work done."""
        self._must_leave, self._grows = {}, False
        self._watchdog = self._new_watchdog()
        if self._gang is None:
            gang = self._stack.enter_context(self._new_gang())
            workers = gang.start()
            self._gang = gang
        else:
            # A process keeps what is of no use to the next attempt: of a failed NCCL communicator,
            # or memory that it lost.
            keep = self._job.resources.device == "cpu" and self._reason != "out_of_memory"
            workers = self._gang.restart(keep=keep)
        self._heard, self._over = 0, False
        self._admit(workers)
        assignment = replace(self._assignment, config=self._job.on(len(workers)))
        results: list[Result] = self._gang.run(
            work,
            assignment,
            self._on_records,
            silent_after_s=SILENT_AFTER_S,
            watch=self._watch,
        )
        self._take_unheard()
        return results[0]

    def _new_gang(self) -> Gang:
        minutes = self._job.resources.wait_minutes
        return Gang(
            placement_of(self._job.resources, self._job.sizes, self._job.stage.processes),
            log_folder=self._assignment.folder / "logs",
            env=environment(self._job),
            files=self._files,
            say=self._say,
            stop=self._stops.stop,
            kill=self._stops.kill,
            wait_s=None if minutes is None else 60 * minutes,
        )

    def _admit(self, workers: list[dict[str, Any]]) -> None:
        """Put the workers of this attempt on record, and whether there are more or fewer."""
        before, self._workers = self._workers, len(workers)
        if before not in (0, self._workers):
            self._tell("resized", workers_before=before, workers=self._workers, reason=self._reason)
        self._admitted(workers)

    def _new_watchdog(self) -> Watchdog | None:
        """Of one attempt. None: nobody is to look for hangs."""
        limit_s, logs = self._job.resources.hang_after, self._assignment.folder / "logs"

        def event(kind: str, **facts: Any) -> None:
            self._take(0, [{"event": kind, **facts}])

        return None if limit_s is None else Watchdog(limit_s, logs, event)

    def _watch(self, run: GangRun) -> None:
        """Look for hangs; now and then who must leave, and whether there is room for more."""
        if self._watchdog is not None:
            self._watchdog(run)
        now, leaves = time.monotonic(), self._must_leave or self._grows or self._asked_to_end
        if leaves or now < self._look_at or not self._job.recovery.max_restarts:
            return
        self._look_at = now + LOOK_AT_CLUSTER_S
        assert self._gang is not None
        self._tell_who_must_leave()
        may_grow = self._workers < self._job.workers and self._unrecovered is None
        if not self._must_leave and may_grow and now > self._grow_at:
            size = self._gang.placement.most(self._gang.room()) or 0
            self._grows = size > self._workers
            if self._grows:
                self._grow_at = now + GROW_EVERY_S
                self._say(f"there is room for {size} workers; saving a checkpoint to use it")
        if self._must_leave or self._grows:
            self._gang.leave_soon()

    def _tell_who_must_leave(self) -> None:
        """Put the ranks that have been given notice on record, once."""
        assert self._gang is not None
        told = self._gang.must_leave()
        for rank in told.keys() - self._must_leave.keys():
            host = self._gang.workers[rank]["host"]
            self._tell("preempted", rank=rank, host=host, notice=told[rank])
        self._must_leave |= told

    def _goes_on_elsewhere(self) -> bool:
        """After ranks have saved and left: whether another attempt begins; no step is lost."""
        gang, standing = self._gang, self._journal.standing
        assert gang is not None
        if self._asked_to_end or not self._job.recovery.max_restarts:
            return False
        if not self._grows:
            self._tell_who_must_leave()
        if not self._must_leave and not self._grows:
            return False
        remedy, self._reason = "more workers", "there is room for more"
        if self._must_leave:
            rank, self._reason = next(iter(self._must_leave.items()))
            told = Explanation("preemption", rank, None, self._reason, "")
            if self._budgets.charge(told, standing.step, standing.step) is None:
                self._give_up(told)
                return False
            if gang.placement.most(gang.room()) is None:
                self._say("there is no room elsewhere; the run goes on when it is resumed")
                return False
            remedy = BUDGETS["preemption"].remedy
        if gang.needs_other_room():
            self._drop_gang()
        self._take_fence()
        self._begin_next(remedy, standing.step, standing.step)
        return True

    def _on_records(self, rank: int, records: list[dict[str, Any]]) -> None:
        """Hand on what a rank has sent; the first step after a failure ends the recovery."""
        if self._over:
            return
        for record in records:  # one that the disk has no room for counts as not heard
            self._take(rank, [record])
            self._heard += rank == 0
        failed, step = self._unrecovered, next((r["step"] for r in records if "metrics" in r), None)
        if failed is not None and step is not None:
            seconds = round(time.monotonic() - failed.seen_at, 3)
            self._tell("recovered", step=step, seconds=seconds, detect_s=failed.detect_s)
            self._unrecovered = None

    def _go_on_after(self, error: Exception) -> None:
        """Put the failure on record and get ready for another attempt.

        Raises:
            Exception: the error, if there is to be none.
            Fenced: another process has taken the run.
        """
        seen_at = getattr(error, "seen_at", time.monotonic())
        seen_after_s = getattr(error, "seen_after_s", None)
        detect_s = None if seen_after_s is None else round(seen_after_s, 3)
        ends = explain_failure(error).failure == "disk" and not self._wait_for_disk(error)
        self._take_unheard()
        self._over = True
        self._take_fence()
        self._look_at_checkpoints()
        standing = self._journal.standing
        step, from_step = standing.step, standing.checkpoint_step or self._start_step
        failure = explain_failure(error, step or None)
        facts = {
            "cause": failure.failure,
            "rank": failure.rank,
            "host": failure.host,
            "step": step,
            "message": failure.message,
            "detect_s": detect_s,
        }
        self._journal.event("failed", **facts)
        ends = ends or self._asked_to_end
        wait_s = None if ends else self._budgets.charge(failure, step, from_step)
        if wait_s is None:  # the failure is the run's, which is told with its remedy
            self._give_up(failure)
            self._ends_with(error)
            raise error
        waits = f"; the next attempt begins in {wait_s:g} s" if wait_s else ""
        self._say(f"{sentence({'event': 'failed', **facts})}{waits}")
        if self._gang is None or (failure.failure == "node_lost" and self._needs_new(failure)):
            self._drop_gang()
        self._wait(wait_s)
        self._unrecovered, self._reason = _Unrecovered(seen_at, detect_s), failure.failure
        self._begin_next(BUDGETS[failure.failure].remedy, step, from_step)

    def _wait_for_disk(self, error: Exception) -> bool:
        """Wait for room on the disk of the run, which holds its record, too; whether there is.

        Raises:
            KeyboardInterrupt: the user wants the run to end.
        """
        config, folder = self._job.recovery, self._assignment.folder
        if not config.restarts("disk") or self._asked_to_end:
            return False
        if self._gang is not None:
            self._gang.leave_soon()
        minutes = config.disk_wait_minutes
        most = "" if minutes is None else f", for {minutes:g} minutes at most"
        told = explain_failure(error, self._journal.standing.step or None).happened
        self._say(f"{told}; waiting until {size(self._room)} are free at {folder}{most}")
        begun, limit_s = time.monotonic(), None if minutes is None else 60 * minutes
        if not wait_for_room(folder, self._room, limit_s, self._wait):
            return False
        self._tell("waited_for_disk", seconds=round(time.monotonic() - begun, 1))
        return True

    def _needs_new(self, lost: Explanation) -> bool:
        """Whether what was lost is Ray itself, or a node in whose place there is room on another,
        which Ray, as long as it does not miss the node, would not give to the same gang."""
        assert self._gang is not None
        ray_is_lost = lost.rank is None or self._job.resources.address is None
        return ray_is_lost or self._gang.needs_other_room()

    def _take_fence(self) -> None:
        """Nothing of this attempt may be published any more; Fenced if that holds for us, too."""
        self._journal.check()
        self._journal.fence = take(self._assignment.folder, self._journal.attempt + 1)

    def _begin_next(self, remedy: str, step: int, from_step: int) -> None:
        """From here on it is another attempt."""
        assert self._journal.fence is not None
        self._journal.attempt += 1
        self._assignment = replace(self._assignment, fence=self._journal.fence)
        self._tell(
            "restarting",
            remedy=remedy,
            from_step=from_step,
            lost_steps=step - from_step,
            workers=self._workers or self._job.workers,
        )

    def _drop_gang(self) -> None:
        """End the gang with its room; the next attempt begins with another."""
        self._stack.close()
        self._gang = None

    def _give_up(self, failure: Explanation) -> None:
        """Say that a run that has recovered, or might have, ends with this failure."""
        attempts, config = self._journal.attempt, self._budgets.config
        if self._asked_to_end or not config.max_restarts:
            return
        budget = config.restarts(failure.failure)
        tell = self._tell if attempts > 1 else self._journal.event
        tell("gave_up", cause=failure.failure, budget=budget, attempts=attempts)

    def _tell(self, kind: str, **facts: Any) -> None:
        """Put an event on record, and say it."""
        self._journal.event(kind, **facts)
        self._say(str(sentence({"event": kind, "attempt": self._journal.attempt, **facts})))

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

    def _take_unheard(self) -> None:
        """Take what rank 0 has written down and the driver has not heard; the file goes."""
        folder, attempt = self._assignment.folder, self._assignment.attempt
        if missed := unheard(folder, attempt, self._heard):
            self._on_records(0, missed)
