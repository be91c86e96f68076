"""Rows of the tables as objects, and what is done to them inside a transaction.

Every change of state is a compare-and-set (this state and this attempt, or nothing) with its event
in the same transaction. Times are seconds since 1970, for people to read: none decides anything.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from cluster.queue.database import events, jobs
from cluster.queue.job import STEPS, Job, State, StopCause, unknown


@dataclass(frozen=True)
class Record:
    """A job and what has become of it."""

    job: Job
    seq: int
    """Grows with every job handed in: the order among equal priorities."""
    state: State
    attempt: int
    """Of the newest attempt; 0 before the first."""
    placement: tuple[str, ...]
    """The node of each bundle in that attempt."""
    submitted_s: float
    started_s: float | None
    """When its newest attempt began."""
    ended_s: float | None
    ran_s: float
    """In all attempts since it was submitted or resumed."""
    deaths: int
    """How often its driver died without a result."""
    cause: StopCause | None
    """Why it is being stopped, or was last."""
    reason: str
    """Why it waits, in a sentence; empty until it was considered."""
    expected_start_s: float | None
    """Estimated."""
    exit_code: int | None
    message: str
    """What is known about its end."""


@dataclass(frozen=True)
class Event:
    """A step of a job."""

    at_s: float
    came_from: State | None
    """None: it was handed in."""
    state: State
    attempt: int
    sentence: str


@dataclass(frozen=True)
class Step:
    """A change that the keeper wants: from what it has read to a new state."""

    record: Record
    to: State
    sentence: str = ""
    """Instead of the general one in STEPS."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Further columns."""


def make_step(connection: Connection, step: Step) -> bool:
    """Carry a step out if the job still is in the state and attempt that were read."""
    old = step.record
    general = STEPS[old.state, step.to]
    made = connection.execute(
        update(jobs)
        .where(jobs.c.seq == old.seq, jobs.c.state == old.state)
        .where(jobs.c.attempt == old.attempt)
        .values(state=step.to, **step.changes)
    ).rowcount
    if made:
        attempt = step.changes.get("attempt", old.attempt)
        note(connection, old.job.id, old.state, step.to, attempt, step.sentence or general)
    return bool(made)


def find(connection: Connection, job_id: str, *, to_change: bool = False) -> Record:
    """One job; where it is to be changed, nobody else can until this transaction ends.

    Raises:
        UnknownJob: with the nearest ids.
    """
    query = select(jobs).where(jobs.c.id == job_id)
    if to_change:  # SQLite has locked the whole database by now, PostgreSQL has not
        query = query.with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None:
        raise unknown(job_id, connection.execute(select(jobs.c.id)).scalars())
    return record(row, Job.from_json(row.spec))


def note(
    connection: Connection,
    job_id: str,
    came_from: State | None,
    state: State,
    attempt: int,
    sentence: str,
) -> None:
    """Write down a step that is made in the same transaction."""
    connection.execute(
        insert(events).values(
            job_id=job_id,
            at_s=time.time(),
            came_from=came_from,
            state=state,
            attempt=attempt,
            sentence=sentence,
        )
    )


def record(row: Row[Any], job: Job) -> Record:
    """A row of the table, with its job read already."""
    return Record(
        job=job,
        seq=row.seq,
        state=State(row.state),
        attempt=row.attempt,
        placement=tuple(json.loads(row.placement)),
        submitted_s=row.submitted_s,
        started_s=row.started_s,
        ended_s=row.ended_s,
        ran_s=row.ran_s,
        deaths=row.deaths,
        cause=StopCause(row.cause) if row.cause else None,
        reason=row.reason,
        expected_start_s=row.expected_start_s,
        exit_code=row.exit_code,
        message=row.message,
    )
