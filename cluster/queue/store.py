"""The queue for its clients: jobs handed in, looked at, stopped, resumed; and quotas.

The table is the one truth about a job. Clients come and go, several at once; what the keeper writes
is in keeping.py.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from sqlalchemy import Connection, delete, insert, select

from cluster.queue.database import QueueDatabase, events, jobs, quotas
from cluster.queue.job import (
    ENDED,
    QUEUED,
    Job,
    JobRefused,
    NotNow,
    NotYours,
    Quota,
    State,
    StopCause,
    UnknownJob,
)
from cluster.queue.rows import Event, Record, Step, find, make_step, note, record

PATIENCE_S = 30.0


class Store:
    """The queue in its database."""

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        """Open it, and make it where there is none.

        Args:
            url: sqlite:////absolute/path.db, on a disk of this machine (SQLite's log needs memory
                that its users share), or postgresql+psycopg://user@host/name.
            patience_s: for how long a locked or absent database is asked again, in seconds.

        Raises:
            QueueError: the address is none, or the database does not answer.
        """
        self.database = QueueDatabase(url, patience_s)

    def close(self) -> None:
        """Close all connections."""
        self.database.close()

    def add(self, new: Sequence[Job]) -> Sequence[Record]:
        """Hand jobs in, all or none; those that are there already stay as they are.

        Raises:
            JobRefused: an id is taken by another job, or `after` names what cannot be waited for.
        """
        _refuse_cycles(new)
        return self.database.write(lambda connection: self._add(connection, new))

    def get(self, job_id: str) -> Record:
        """One job.

        Raises:
            UnknownJob: with the nearest ids.
        """
        return self.database.read(lambda connection: find(connection, job_id))

    def list(
        self,
        owner: str | None = None,
        project: str | None = None,
        states: Iterable[State] | None = None,
        newest: int | None = None,
    ) -> Sequence[Record]:
        """Jobs in the order in which they were handed in; only the newest ones where that is set.

        Args:
            owner: only this one's.
            project: only of this one.
            states: only in these.
            newest: how many.
        """
        query = select(jobs).order_by(jobs.c.seq.desc()).limit(newest)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if project is not None:
            query = query.where(jobs.c.project == project)
        if states is not None:
            query = query.where(jobs.c.state.in_([str(state) for state in states]))
        rows = self.database.read(lambda connection: connection.execute(query).all())
        return [record(row, Job.from_json(row.spec)) for row in reversed(rows)]

    def events(self, job_id: str) -> Sequence[Event]:
        """All steps of a job, the oldest first; none for an unknown one."""
        query = select(events).where(events.c.job_id == job_id).order_by(events.c.seq)
        rows = self.database.read(lambda connection: connection.execute(query).all())
        return [
            Event(
                row.at_s,
                State(row.came_from) if row.came_from else None,
                State(row.state),
                row.attempt,
                row.sentence,
            )
            for row in rows
        ]

    def stop(self, job_id: str, by: str, *, anyone: bool = False) -> Record:
        """End a job: at once if it waits, else its driver is told to save and leave.

        Args:
            job_id: of the job; asking again for one that is being stopped changes nothing.
            by: who asks.
            anyone: the job may be anybody's.

        Raises:
            UnknownJob, NotYours: there is none, or it is somebody else's.
            NotNow: it has ended already.
        """

        def work(connection: Connection) -> Record:
            found = self._own(connection, job_id, by, anyone, "stop")
            if found.state in ENDED:
                raise NotNow(
                    f"job {job_id} is {found.state} since {_ago(found.ended_s)} ago; there is "
                    "nothing to stop"
                )
            if found.state is State.STOPPING and found.cause is StopCause.OWNER:
                return found
            queued = found.state in QUEUED
            to = State.STOPPED if queued else State.STOPPING
            changes = {"ended_s": time.time()} if queued else {}
            step = Step(found, to, f"stopped by {by}", {"cause": StopCause.OWNER, **changes})
            make_step(connection, step)
            return find(connection, job_id)

        return self.database.write(work)

    def resume(self, job_id: str, by: str, *, anyone: bool = False) -> Record:
        """Let a failed or stopped job wait again; its restarts and its time limit begin anew.

        Args:
            job_id: of the job; one that waits or runs stays as it is.
            by: who asks.
            anyone: the job may be anybody's.

        Raises:
            UnknownJob, NotYours: there is none, or it is somebody else's.
            NotNow: it is done, or is just being stopped.
        """

        def work(connection: Connection) -> Record:
            found = self._own(connection, job_id, by, anyone, "resume")
            if found.state is State.DONE:
                raise NotNow(f"job {job_id} is done; submit a new one to run it again")
            if found.state is State.STOPPING and found.cause is not StopCause.PREEMPTION:
                raise NotNow(
                    f"job {job_id} is being stopped ({found.cause}); resume it when it has stopped"
                )
            if found.state in ENDED:
                fresh = {"deaths": 0, "ran_s": 0.0, "cause": None, "ended_s": None, "message": ""}
                step = Step(found, State.WAITING, f"resumed by {by}", fresh | {"exit_code": None})
                make_step(connection, step)
            return find(connection, job_id)

        return self.database.write(work)

    def quotas(self) -> Sequence[Quota]:
        """All there are."""
        rows = self.database.read(lambda connection: connection.execute(select(quotas)).all())
        return [Quota(**row._mapping) for row in rows]

    def set_quota(self, quota: Quota) -> None:
        """Set or replace the quota of an owner or a project; without any limit, take it away."""

        def work(connection: Connection) -> None:
            same = (quotas.c.kind == quota.kind) & (quotas.c.name == quota.name)
            connection.execute(delete(quotas).where(same))
            if quota.limits:
                connection.execute(insert(quotas).values(asdict(quota)))

        self.database.write(work)

    def _add(self, connection: Connection, new: Sequence[Job]) -> Sequence[Record]:
        coming = {job.id for job in new}
        for job in new:
            row = connection.execute(select(jobs).where(jobs.c.id == job.id)).one_or_none()
            if row is not None:
                _refuse_another(Job.from_json(row.spec), job)
                continue
            for other in job.after:
                if other not in coming:
                    _refuse_vain_wait(connection, job, other)
            now = time.time()
            connection.execute(
                insert(jobs).values(
                    id=job.id,
                    owner=job.owner,
                    project=job.project,
                    spec=job.to_json(),
                    state=State.WAITING,
                    submitted_s=now,
                )
            )
            note(connection, job.id, None, State.WAITING, 0, f"submitted by {job.owner}")
        return [find(connection, job.id) for job in new]

    def _own(self, connection: Connection, job_id: str, by: str, anyone: bool, verb: str) -> Record:
        found = find(connection, job_id, to_change=True)
        if not anyone and found.job.owner != by:
            raise NotYours(f"job {job_id} belongs to {found.job.owner}; {by} cannot {verb} it")
        return found


def _refuse_another(there: Job, job: Job) -> None:
    """Raise JobRefused if the id is taken by a job that differs."""
    if there == job:
        return
    old, new = asdict(there), asdict(job)
    differs = [name for name in old if old[name] != new[name]]
    raise JobRefused(
        f"job {job.id} is in the queue already, with another {', '.join(differs)}; "
        "hand this one in under another id"
    )


def _refuse_vain_wait(connection: Connection, job: Job, other: str) -> None:
    """Raise JobRefused if what a job is to run after is unknown, failed or was stopped already."""
    try:
        found = find(connection, other)
    except UnknownJob as error:
        raise JobRefused(f"job {job.id}: after={other}: {error}") from error
    if found.state in (State.FAILED, State.STOPPED):
        raise JobRefused(
            f"job {job.id}: after={other}, which is {found.state}; resume that one first"
        )


def _refuse_cycles(new: Sequence[Job]) -> None:
    """Raise JobRefused if jobs wait for one another; those in the queue wait for none of these."""
    left = {job.id: list(job.after) for job in new}
    if len(left) < len(new):
        raise JobRefused("two of the jobs have one id; give each its own")
    while free := [one for one, after in left.items() if not any(other in left for other in after)]:
        for one in free:
            del left[one]
    if left:
        raise JobRefused(
            f"the jobs {', '.join(sorted(left))} run after one another in a circle; "
            f"take one out of the `after` of {min(left)}"
        )


def _ago(then: float | None) -> str:
    seconds = max(0.0, time.time() - (then or time.time()))
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
