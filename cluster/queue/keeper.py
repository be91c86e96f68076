"""The keeper: makes the processes agree with the table, again and again, until nothing differs.

One round (`tick`), each step of which may be the last before a kill -9:

1. Beat, or take the lease if nobody holds it.
2. Ask the transport what has become of every attempt that holds a place, and write it down.
3. Unless nothing has changed for less than EXPLAIN_S, ask admission who starts and who leaves, and
   write that down: an attempt has its number and its place in the table before it is started.
4. Do what is written: start what is to start, stop what is to stop. Both may be done twice, by this
   keeper or by the next, for the transport starts an id once only.

So a new keeper needs to know nothing but the table: it finds what runs and goes on with it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from cluster.queue.admission import Candidate, Decision, decide
from cluster.queue.database import DatabaseAway
from cluster.queue.drivers import INTERRUPTED, Driver, Drivers, Node, StartRefused, TransportAway
from cluster.queue.job import (
    PLACED,
    QUEUED,
    Attempt,
    Quota,
    State,
    StopCause,
    submission_id,
)
from cluster.queue.keeping import Keeping
from cluster.queue.preemption import Holding
from cluster.queue.rows import Record, Step
from cluster.queue.store import Store

EXPLAIN_S = 5.0
"""Sentences change all the time, and deciding about 10,000 jobs takes tenths of a second of CPU."""


@dataclass(frozen=True)
class Trouble:
    """Why nothing can be started or concluded at the moment."""

    what: str
    since_s: float
    """Seconds since 1970."""


class Keeper:
    """Keeps one queue. There may be several for one store: one works, the others wait for it."""

    def __init__(
        self,
        store: Store,
        drivers: Drivers,
        *,
        grace_s: float = 60.0,
        restarts: int = 3,
        lease_s: float = 10.0,
        over: Callable[[Record], None] = lambda record: None,
    ) -> None:
        """Nothing is done before the first `tick`.

        Args:
            store: the queue.
            drivers: what starts and stops processes.
            grace_s: how long a driver may take to save and leave, in seconds.
            restarts: how often a driver that died without a result is started anew.
            lease_s: for how long a keeper on another machine must be silent until this one takes
                over, in seconds; several times the pause between rounds.
            over: is told of each attempt that has given its place back, as it was before.
        """
        self.store, self.drivers = store, drivers
        self.grace_s, self.restarts = grace_s, restarts
        self.keeping = Keeping(store.database, lease_s)
        self._over = over
        self._told: set[str] = set()
        self.trouble: Trouble | None = None
        self._explained = -EXPLAIN_S
        self._until = 0.0
        self._seen: tuple[object, ...] = ()

    def run(
        self,
        ended: threading.Event,
        pause_s: float = 1.0,
        say: Callable[[str], None] = print,
    ) -> None:
        """Keep the queue until `ended` is set; then let the next keeper begin at once.

        Args:
            ended: set by another thread or a signal handler.
            pause_s: between rounds, in seconds.
            say: is told, once, when the database or the transport is away; see `trouble`, too.

        Raises:
            Fenced: another keeper has taken over.
        """
        while not ended.is_set():
            try:
                self.tick()
                self.trouble = None
            except (DatabaseAway, TransportAway) as error:
                since = self.trouble.since_s if self.trouble else time.time()
                if self.trouble is None or self.trouble.what != str(error):
                    say(str(error))
                self.trouble = Trouble(str(error), since)
            ended.wait(pause_s)
        self.keeping.release()

    def tick(self) -> bool:
        """One round; whether this one keeps the queue.

        Raises:
            Fenced: another keeper has taken over.
            DatabaseAway, TransportAway: nothing was concluded; the next round does it.
        """
        if not self.keeping.held():
            return False
        placed = self.keeping.records(PLACED)
        nodes = self.drivers.nodes()
        drivers = self.drivers.states([_id(record) for record in placed])
        now = time.monotonic()
        self._until = now + self.keeping.lease_s / 3
        self._reconcile(placed, drivers)
        quotas = self.store.quotas()
        seen = self.keeping.newest_event(), nodes, quotas
        if seen != self._seen or now - self._explained >= EXPLAIN_S:
            self._seen = seen
            self._admit(self.keeping.records(QUEUED | PLACED), nodes, quotas)
        return True

    def _reconcile(self, placed: Sequence[Record], drivers: Mapping[str, Driver]) -> None:
        """Write down what has become of the attempts."""
        steps = []
        for record in placed:
            driver = drivers.get(_id(record))
            step = self._step(record, driver)
            if step is not None:
                steps.append(step)
            elif record.state is State.STARTING and driver is None:
                steps += self._start(record)
            elif record.state is State.STOPPING:
                with suppress(TransportAway):
                    self.drivers.stop(_id(record), self.grace_s)
                    self._told.add(_id(record))
        self._told &= {_id(record) for record in placed}
        for step in self.keeping.step(steps):
            if step.to not in PLACED:
                self._over(step.record)

    def _step(self, record: Record, driver: Driver | None) -> Step | None:
        """What follows from what the transport tells of an attempt, if anything."""
        if driver is None:
            if record.state is State.RUNNING:
                return Step(
                    record, State.WAITING, "the cluster has lost its driver; it waits for another"
                )
            # Asked to keep it from starting, and asked again: it never will.
            gone = record.state is State.STOPPING and _id(record) in self._told
            return _stopped(record, Driver(ended=True)) if gone else None
        if driver.ended:
            stopping = record.state is State.STOPPING
            return _stopped(record, driver) if stopping else self._ended(record, driver)
        if record.state is State.STARTING:
            return Step(record, State.RUNNING, changes={"started_s": time.time()})
        limit_s = record.job.limit_s
        if record.state is State.RUNNING and limit_s is not None and record.ran_s >= limit_s:
            return Step(
                record,
                State.STOPPING,
                f"has run for {record.ran_s:.0f} s, its time limit is {limit_s:g} s",
                {"cause": StopCause.LIMIT},
            )
        return None

    def _ended(self, record: Record, driver: Driver) -> Step:
        """A driver ended that nobody had told to."""
        if driver.died:
            return self._again(record, driver, "its driver died without a result")
        outcomes = {0: State.DONE, INTERRUPTED: State.STOPPED}
        return _final(record, outcomes.get(driver.exit_code or 0, State.FAILED), driver)

    def _again(self, record: Record, driver: Driver, what: str) -> Step:
        """Let a job wait for another attempt, unless its restarts are used up."""
        deaths = record.deaths + 1
        if deaths > self.restarts:
            why = f"{what}, for the {deaths}th time: {driver.message}"
            return _final(record, State.FAILED, driver, why, {"deaths": deaths})
        why = f"{what} ({driver.message}); restart {deaths} of {self.restarts}"
        changes = {"deaths": deaths, "message": driver.message, "exit_code": driver.exit_code}
        return Step(record, State.WAITING, why, changes)

    def _admit(
        self, records: Sequence[Record], nodes: Sequence[Node], quotas: Sequence[Quota]
    ) -> None:
        """Decide, write it down, then start what was written."""
        self.keeping.forget(records)
        by_id = {record.job.id: record for record in records}
        decision = decide(
            nodes,
            [_holding(record) for record in records if record.state in PLACED],
            self._candidates(records, by_id),
            quotas,
            time.time(),
        )
        steps = [
            Step(
                by_id[job_id],
                State.STARTING,
                f"admitted to {', '.join(dict.fromkeys(placement))}",
                {
                    "attempt": by_id[job_id].attempt + 1,
                    "placement": json.dumps(placement),
                    "cause": None,
                    "reason": "",
                    "expected_start_s": None,
                },
            )
            for job_id, placement in decision.starts.items()
        ]
        steps += [
            Step(
                by_id[job_id],
                State.STOPPING,
                f"makes room for {other} of priority {by_id[other].job.priority}",
                {"cause": StopCause.PREEMPTION},
            )
            for job_id, other in decision.preempted.items()
        ]
        refused = []
        for step in self.keeping.step(steps):
            if step.to is State.STARTING:
                placement = decision.starts[step.record.job.id]
                refused += self._start(_placed(step.record, placement))
        self.keeping.step(refused)
        self._explain(decision, by_id)

    def _candidates(self, records: Sequence[Record], by_id: dict[str, Record]) -> list[Candidate]:
        queued = [record for record in records if record.state in QUEUED]
        wanted = {other for record in queued for other in record.job.after}
        states = self.keeping.states(wanted - by_id.keys())
        states |= {other: by_id[other].state for other in wanted & by_id.keys()}
        return [
            Candidate(
                record.job,
                record.seq,
                record.ran_s,
                tuple(
                    (other, states[other])
                    for other in record.job.after
                    if states[other] is not State.DONE
                ),
            )
            for record in queued
        ]

    def _start(self, record: Record) -> list[Step]:
        """Start an attempt that is written down; the step that follows if it cannot start.

        What cannot be done now is done in the next round, for it stays written down: where the
        transport does not answer, and when so many starts have come together that the lease would
        run out over them.
        """
        if time.monotonic() > self._until:
            return []
        try:
            self.drivers.start(Attempt(record.job, record.attempt, record.placement))
        except TransportAway:
            return []
        except StartRefused as error:
            refusal = Driver(ended=True, message=str(error))
            return [self._again(record, refusal, "its driver could not start")]
        return []

    def _explain(self, decision: Decision, by_id: dict[str, Record]) -> None:
        """Note new sentences: at once for a job that had none, every few seconds for the rest."""
        now = time.monotonic()
        all_of_them = now - self._explained >= EXPLAIN_S
        if all_of_them:
            self._explained = now
        self.keeping.explain(
            {
                job_id: (verdict.reason, verdict.expected_start_s)
                for job_id, verdict in decision.verdicts.items()
                if verdict.reason != by_id[job_id].reason
                and (all_of_them or not by_id[job_id].reason)
            }
        )


def _id(record: Record) -> str:
    return submission_id(record.job.id, record.attempt)


def _holding(record: Record) -> Holding:
    stopping = record.state is State.STOPPING
    return Holding(record.job, record.placement, record.ran_s, stopping)


def _placed(record: Record, placement: tuple[str, ...]) -> Record:
    """The record after it was admitted."""
    number = record.attempt + 1
    return replace(record, state=State.STARTING, attempt=number, placement=placement)


def _final(
    record: Record,
    to: State,
    driver: Driver,
    sentence: str = "",
    changes: Mapping[str, Any] | None = None,
) -> Step:
    """The end of a job, with what its driver has left."""
    message = driver.message if to is not State.DONE else ""
    left = {"ended_s": time.time(), "exit_code": driver.exit_code, "message": message}
    return Step(record, to, sentence, {**left, **(changes or {})})


def _stopped(record: Record, driver: Driver) -> Step:
    """The driver of a job that was being stopped is gone."""
    if driver.exit_code == 0:
        return _final(record, State.DONE, driver)
    if record.cause is StopCause.PREEMPTION:
        return Step(record, State.PREEMPTED, changes={"exit_code": driver.exit_code})
    if record.cause is StopCause.LIMIT:
        why = (
            f"time limit: ran for {record.ran_s:.0f} s of limit_s={record.job.limit_s:g}; "
            "resume it for as long again, or submit it with a higher limit"
        )
        return _final(record, State.FAILED, driver, why, {"message": why})
    return _final(record, State.STOPPED, driver)
