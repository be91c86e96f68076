"""One carrying-out of the work by all ranks of a gang, watched by the driver.

1. Every rank begins at once; the driver polls.
2. At the first failure the others get a moment: for the cause behind an echo, and for their
   last records.
3. The earliest failure that is not an echo is raised.
4. What the survivors still do after that is settled by `survivors`, if the gang starts again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from types import ModuleType
from typing import Any

from cluster.ending import end_processes_of
from cluster.failure import (
    WorkerFailed,
    first_cause,
    from_death,
    from_hang,
    from_outcome,
    from_silence,
)
from cluster.head import node_answers
from cluster.polls import POLL_S, OnRecords, Polls
from cluster.post_mortem import memory_report, stacks, stopped
from cluster.worker import Outcome, Record

ECHO_GRACE_S = 2.0  # how long to wait for the cause behind a "connection reset by peer"
SUSPICION_S = 1.5  # a rank that has not answered for so long may be that cause,
VERDICT_S = 6.0  # and is it if it still does not; a busy one answers by then
LEAVING_S = 15.0  # a rank that is silent for so long keeps nobody who wants to leave
FROZEN_S = 6.0  # silent for so long, and its host says that the process is stopped
CUT_OFF_S = 15.0  # silent for so long, and its node takes no connections
LAST_RECORDS_S = 0.5


class GangRun:
    """The driver's side of one attempt at the work."""

    def __init__(
        self,
        ray: ModuleType,
        actors: list[Any],
        workers: list[Record],
        work: bytes,
        on_records: OnRecords,
    ) -> None:
        """Begin; `actors` and `workers` are in order of rank."""
        self.ray, self.actors, self.workers = ray, actors, workers
        self.polls = Polls(ray, actors, on_records)
        blob = ray.put(work)
        self.running = {actor.run.remote(blob): rank for rank, actor in enumerate(actors)}
        self.results: dict[int, Any] = {}
        self.failures: list[WorkerFailed] = []
        self.dead: set[int] = set()
        """Ranks whose process is gone, out of reach, or silent."""
        self.lost_nodes: set[str] = set()
        """Ray ids of nodes that ranks were lost with."""
        self._told_to_stop = False
        self._asked_at: dict[int, float] = {}  # rank -> how silent when its host was last asked

    def finish(
        self,
        stop: threading.Event,
        kill: threading.Event,
        silent_after_s: float | None,
        watch: Watch | None,
        check: Callable[[], None],
    ) -> list[Any]:
        """Wait for all ranks; returns their results, or raises the first cause.

        `check` raises WorkerFailed if Ray itself is lost; the ranks then have a moment to save.
        """
        give_up_at = float("inf")
        while self.running and time.monotonic() < give_up_at:
            ready = self._ready(POLL_S)
            if kill.is_set():
                raise KeyboardInterrupt("the job was killed")
            self.polls.collect()
            if stop.is_set() or self.polls.terminated:
                self.tell_to_stop()
            for ref in ready:
                self._settle(ref)
            if not self.failures:
                self._look_at_ray(check)
            if silent_after_s is not None:
                self._look_at_silence(silent_after_s, watched=watch is not None)
            if watch is not None and not self.failures:
                watch(self)
            if self.failures:
                # An echo waits for its cause to show; a cause waits for nothing.
                cause = first_cause(self.failures)
                if cause.is_echo:
                    self._look_for_dead_nodes()
                    cause = first_cause(self.failures)
                lost_ray = cause.cause == "lost" and cause.rank is None
                grace = ECHO_GRACE_S if cause.is_echo else LEAVING_S if lost_ray else 0.0
                give_up_at = min(give_up_at, time.monotonic() + grace)
        if not self.failures:
            return [self.results[rank] for rank in range(len(self.actors))]
        if first_cause(self.failures).is_echo:
            self._look_for_lost()
        self.polls.last(LAST_RECORDS_S, without=self.dead)
        # Who fails because of it, too, has its last records in its outcome.
        living = set(self.running.values()) - self.dead
        for ref in self._ready(LAST_RECORDS_S, at_least=len(living)):
            self._settle(ref)
        raise first_cause(self.failures)

    def _look_for_dead_nodes(self) -> None:
        """Count a rank among the failures whose node takes no connections any more.

        The processes of a node that is switched off say nothing, and Ray, which asks a node again
        and again before it gives it up, tells of it after 13 s and more.
        """
        ranks = sorted(self.running.values(), key=self.polls.unheard_s)
        of_nodes = {self.workers[rank]["node"]: rank for rank in ranks}
        for node, rank in reversed(of_nodes.items()):
            if not node_answers(self.ray, node):
                silent_s = self.polls.unheard_s(rank)
                self._fail(from_silence(self.workers[rank], silent_s, node_answers=False))
                self._give_up({rank})
                return  # one is enough, and each that is cut off costs a while

    def _look_for_lost(self) -> None:
        """Count ranks that are lost with their node among the failures, before Ray knows of it.

        Ray tells only after a minute that a node is gone; its ranks are silent at once.
        """
        deadline = time.monotonic() + VERDICT_S - SUSPICION_S
        while (silent := self._silent(SUSPICION_S)) and time.monotonic() < deadline:
            if not all(node_answers(self.ray, self.workers[rank]["node"]) for rank in silent):
                self._fail_silent(SUSPICION_S)  # nobody need wait for more
                return
            self.polls.collect()
            time.sleep(POLL_S)
        self._fail_silent(VERDICT_S - SUSPICION_S)

    def _fail(self, failure: WorkerFailed) -> None:
        """Count a failure, with how long its rank had not been heard."""
        if failure.rank is not None:
            failure.seen_after_s = self.polls.unheard_s(failure.rank)
            if failure.cause == "lost":
                self.lost_nodes.add(self.workers[failure.rank]["node"])
        self.failures.append(failure)

    def survivors(self, grace_s: float, kill: threading.Event) -> set[int]:
        """After a failure: ranks whose process lives and whose target has ended in the grace."""
        self.tell_to_stop()
        deadline = time.monotonic() + grace_s
        while set(self.running.values()) - self.dead and time.monotonic() < deadline:
            if kill.is_set():
                raise KeyboardInterrupt("the job was killed")
            for ref in self._ready(POLL_S):
                self._settle(ref)
        # One that got SIGTERM has been told to leave its host, and would be told again.
        gone = self.dead | self.polls.terminated | set(self.running.values())
        return set(range(len(self.actors))) - gone

    def stacks(self) -> dict[int, str]:
        """Where the threads of each working rank are, as far as their hosts can tell."""
        found = {rank: stacks(self.ray, self.workers[rank]) for rank in self.polls.silences()}
        return {rank: text for rank, text in found.items() if text}

    def fail_hung(self, rank: int | None, message: str, silent_s: float) -> None:
        """Count the gang as hung: by one rank, whose process is killed, or by all (None)."""
        ranks = set(self.running.values()) if rank is None else {rank}
        failure = from_hang(self.workers[min(ranks)], message, all_of_them=rank is None)
        failure.seen_after_s = silent_s
        self.failures.append(failure)
        self._give_up(ranks)

    def tell_to_stop(self) -> None:
        """Make `channel.should_stop()` true everywhere."""
        if not self._told_to_stop:
            self._told_to_stop = True
            for actor in self.actors:
                actor.stop.remote()

    def _ready(self, limit_s: float, at_least: int = 1) -> list[Any]:
        """Runs that have ended: so many, or fewer if the limit is reached first."""
        if not self.running:
            return []
        refs = list(self.running)
        if at_least:
            self.ray.wait(refs, num_returns=at_least, timeout=limit_s)
        ready, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0)
        return list(ready)

    def _settle(self, ref: Any) -> None:
        """Take the result, or the failure, of a rank that has ended."""
        rank = self.running.pop(ref)
        worker = self.workers[rank]
        try:
            outcome: Outcome = self.ray.get(ref)
        except self.ray.exceptions.RayError as error:
            self.polls.finish(rank, [])
            failure = from_death(error, worker, self._memory_report(rank))
            if failure.cause != "exception":
                self.dead.add(rank)
            self._fail(failure)
            return
        self.polls.finish(rank, outcome.records)
        if outcome.error_type is None:
            self.results[rank] = outcome.result
        else:
            self._fail(from_outcome(outcome, worker))

    def _look_at_ray(self, check: Callable[[], None]) -> None:
        try:
            check()
        except WorkerFailed as lost:  # calls of the ranks' actors need no head process
            self._fail(lost)
            self.tell_to_stop()

    def _silent(self, limit_s: float) -> dict[int, float]:
        """Seconds that ranks have not answered, of those that are over the limit and not blamed."""
        blamed = {failure.rank for failure in self.failures}
        silences = {rank: silence.answer_s for rank, silence in self.polls.silences().items()}
        return {
            rank: silent_s
            for rank, silent_s in silences.items()
            if silent_s > limit_s and rank not in blamed
        }

    def _look_at_silence(self, limit_s: float, *, watched: bool) -> None:
        """Count ranks among the failures that are frozen, or that have been silent too long.

        Where a watch sees how far they come, one whose node answers is left to it: a long call of
        native code may keep the GIL.
        """
        if not self.failures:
            self._fail_frozen()
        if self._told_to_stop:
            self._fail_silent(min(LEAVING_S, limit_s))
        else:
            self._fail_silent(limit_s, with_node_alone=watched)

    def _fail_silent(self, limit_s: float, *, with_node_alone: bool = False) -> None:
        """Count ranks that have not answered for so long among the failures."""
        for rank, silent_s in self._silent(limit_s).items():
            worker = self.workers[rank]
            answers = node_answers(self.ray, worker["node"])
            if not (answers and with_node_alone):
                self._fail(from_silence(worker, silent_s, node_answers=answers))
                self._give_up({rank})

    def _fail_frozen(self) -> None:
        """Count ranks among the failures that are silent because their process is stopped.

        And those whose node has been cut off for so long that Ray, too, will give it up.
        """
        for rank, silent_s in self._silent(FROZEN_S).items():
            if 0 <= silent_s - self._asked_at.get(rank, -FROZEN_S) < FROZEN_S:
                continue
            self._asked_at[rank], worker = silent_s, self.workers[rank]
            answers = node_answers(self.ray, worker["node"])
            cut_off = not answers and silent_s > CUT_OFF_S
            if cut_off or (answers and stopped(self.ray, worker)):
                self._fail(from_silence(worker, silent_s, node_answers=answers, stopped=True))
                self._give_up({rank})

    def _give_up(self, ranks: Collection[int]) -> None:
        """Kill the processes of these ranks, so that peers that wait for them come back."""
        self.dead |= set(ranks)
        end_processes_of(self.ray, [self.workers[rank] for rank in ranks])

    def _memory_report(self, rank: int) -> str | None:
        """Ask the host of a dead rank whether its kernel ran out of memory since it last spoke."""
        worker = self.workers[rank]
        return memory_report(self.ray, worker, self.polls.memory_kills.get(rank))


Watch = Callable[[GangRun], None]
"""Looks at a run several times a second, in the calling thread; may end it by `fail_hung`."""
