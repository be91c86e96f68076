"""The queue for its keeper: the lease on it, and all that only its holder may write.

Every transaction of a keeper carries its fencing number and comes to nothing once another has taken
over, however late it comes. No wall clock decides who keeps: a challenger waits until `beat`
has stood still for the whole lease by its own monotonic clock, or, on the same machine, takes over
at once from a process that is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from cluster.host.processes import process_space, started
from cluster.queue.database import QueueDatabase, events, jobs, keepers
from cluster.queue.job import Job, QueueError, State
from cluster.queue.rows import Record, Step, make_step, record

AT_ONCE = 500  # values in one statement; an old SQLite takes 999
LIGHT = [column for column in jobs.c if column.name != "spec"]


class Fenced(QueueError):
    """Another keeper has taken the queue over; this one must do nothing any more."""


class Keeping:
    """What one keeper reads and writes, for as long as it holds the lease."""

    def __init__(self, database: QueueDatabase, lease_s: float) -> None:
        """Nothing is taken yet; see `held`.

        Args:
            database: of the queue.
            lease_s: for how long the holder's beat must stand still before another takes over.
        """
        self.database = database
        self.lease_s = lease_s
        self.fence: int | None = None
        """The number under which this one writes; None while another holds the lease."""
        self._seen: tuple[tuple[int, int, str], float] | None = None
        self._beaten = time.monotonic()
        self._specs: dict[int, Job] = {}
        self._done: set[str] = set()

    def held(self) -> bool:
        """Beat, if this one holds the lease, and take it, if nobody does. Never waits.

        The time since the last beat is added to that of every job that runs, by the monotonic
        clock: setting the clock ends no job, and while nobody keeps the queue no limit runs.

        Raises:
            Fenced: another keeper has taken over.
        """
        if self.fence is None:
            return self._take()
        now = time.monotonic()
        passed, self._beaten = now - self._beaten, now

        def work(connection: Connection) -> None:
            self._hold(connection)
            running = jobs.c.state.in_([State.RUNNING, State.STOPPING])
            connection.execute(update(jobs).where(running).values(ran_s=jobs.c.ran_s + passed))

        self.database.write(work)
        return True

    def release(self) -> None:
        """Let the next keeper begin at once."""
        mine = keepers.c.fence == self.fence
        if self.fence is not None:
            self.database.write(lambda c: c.execute(update(keepers).where(mine).values(holder="")))
            self.fence = None

    def newest_event(self) -> int:
        """A number that grows with every step of any job, whoever makes it."""
        query = select(func.max(events.c.seq))
        return self.database.read(lambda connection: connection.execute(query).scalar()) or 0

    def records(self, states: Iterable[State]) -> list[Record]:
        """All jobs in these states, in the order in which they were handed in."""
        names = [str(state) for state in states]
        query = select(*LIGHT).where(jobs.c.state.in_(names)).order_by(jobs.c.seq)

        def work(connection: Connection) -> list[Any]:
            rows = list(connection.execute(query).all())
            # A job never changes, and reading 10,000 of them takes longer than deciding.
            missing = [row.seq for row in rows if row.seq not in self._specs]
            for some in _portions(missing):
                specs = select(jobs.c.seq, jobs.c.spec).where(jobs.c.seq.in_(some))
                for seq, spec in connection.execute(specs):
                    self._specs[seq] = Job.from_json(spec)
            return rows

        return [record(row, self._specs[row.seq]) for row in self.database.read(work)]

    def forget(self, all_but: Iterable[Record]) -> None:
        """Keep in memory what was read of these jobs alone."""
        self._specs = {one.seq: one.job for one in all_but}

    def states(self, ids: Iterable[str]) -> dict[str, State]:
        """Where these jobs stand; which are done is remembered, for that never changes."""
        wanted = set(ids)
        found = dict.fromkeys(wanted & self._done, State.DONE)

        def work(connection: Connection) -> None:
            for some in _portions(sorted(wanted - self._done)):
                query = select(jobs.c.id, jobs.c.state).where(jobs.c.id.in_(some))
                found.update({row.id: State(row.state) for row in connection.execute(query)})

        if wanted - self._done:
            self.database.read(work)
        self._done |= {job_id for job_id, state in found.items() if state is State.DONE}
        return found

    def step(self, steps: Sequence[Step]) -> list[Step]:
        """Carry out those steps whose job still is where it was read, in one transaction.

        Returns:
            The steps that were made.

        Raises:
            Fenced: another keeper has taken over; none was made.
        """

        def work(connection: Connection) -> list[Step]:
            self._hold(connection)
            return [step for step in steps if make_step(connection, step)]

        return self.database.write(work) if steps else []

    def explain(self, reasons: Mapping[str, tuple[str, float | None]]) -> None:
        """Note why jobs wait, and when each is likely to start (seconds since 1970 or None).

        Raises:
            Fenced: another keeper has taken over.
        """
        values = [{"job": one, "why": why, "at": at} for one, (why, at) in sorted(reasons.items())]
        statement = (
            update(jobs)
            .where(jobs.c.id == bindparam("job"))
            .values(reason=bindparam("why"), expected_start_s=bindparam("at"))
        )

        def work(connection: Connection) -> None:
            self._hold(connection)
            connection.execute(statement, values)

        if values:
            self.database.write(work)

    def _take(self) -> bool:
        query = select(keepers.c.fence, keepers.c.beat, keepers.c.holder)
        row = self.database.read(lambda connection: connection.execute(query).one())
        now, seen = time.monotonic(), (row.fence, row.beat, row.holder)
        if self._seen is None or self._seen[0] != seen:
            self._seen = seen, now
        if not _is_gone(row.holder) and now - self._seen[1] < self.lease_s:
            return False
        taken = self.database.write(
            lambda connection: (
                connection.execute(
                    update(keepers)
                    .where(keepers.c.fence == row.fence, keepers.c.beat == row.beat)
                    .values(fence=row.fence + 1, beat=0, holder=_myself())
                ).rowcount
            )
        )
        if taken:
            self.fence, self._beaten = row.fence + 1, now
        return bool(taken)

    def _hold(self, connection: Connection) -> None:
        """Beat in this transaction; the row stays locked until it ends."""
        held = connection.execute(
            update(keepers).where(keepers.c.fence == self.fence).values(beat=keepers.c.beat + 1)
        ).rowcount
        if not held:
            now = connection.execute(select(keepers.c.fence, keepers.c.holder)).one()
            raise Fenced(
                f"the queue is kept by {now.holder or 'nobody'} (number {now.fence}); number "
                f"{self.fence} writes no more"
            )


def _myself() -> str:
    pid = os.getpid()
    return f"{os.uname().nodename} pid {pid} started {started(pid)} in {process_space()}"


def _is_gone(holder: str) -> bool:
    """Whether nobody holds the lease, or a process of this machine that is no more."""
    if not holder:
        return True
    head, _, space = holder.partition(" in ")
    words = head.split()
    return space == process_space() and str(started(int(words[2]))) != words[4]


def _portions(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
