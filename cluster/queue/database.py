"""The database of the queue: its tables, transactions, and patience with a database that is away.

SQLite in a file by default, PostgreSQL by URL. Every write is one transaction that holds the write
lock from its first statement (`BEGIN IMMEDIATE`), so what it reads cannot change before it commits,
and is on the disk when it returns (`synchronous=FULL`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

from cluster.queue.job import QueueError

SCHEMA = 1
BUSY_S = 1.0  # SQLite's own wait for a lock; patience goes on in steps of it
PAUSE_S = 0.05
LOCK = 0x6F726368  # names our advisory lock among those of a PostgreSQL database

T = TypeVar("T")
metadata = MetaData()
jobs = Table(
    "jobs",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("id", String(63), unique=True, nullable=False),
    Column("owner", Text, nullable=False, index=True),
    Column("project", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(16), nullable=False, index=True),
    Column("attempt", Integer, nullable=False, default=0),
    Column("placement", Text, nullable=False, default="[]"),
    Column("submitted_s", Float, nullable=False),
    Column("started_s", Float),
    Column("ended_s", Float),
    Column("ran_s", Float, nullable=False, default=0.0),
    Column("deaths", Integer, nullable=False, default=0),
    Column("cause", String(16)),
    Column("reason", Text, nullable=False, default=""),
    Column("expected_start_s", Float),
    Column("exit_code", Integer),
    Column("message", Text, nullable=False, default=""),
    sqlite_autoincrement=True,  # the number of a deleted row never comes again
)
events = Table(
    "events",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("job_id", String(63), nullable=False, index=True),
    Column("at_s", Float, nullable=False),
    Column("came_from", String(16)),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("sentence", Text, nullable=False),
)
quotas = Table(
    "quotas",
    metadata,
    Column("kind", String(16), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("cpus", Integer),
    Column("gpus", Integer),
    Column("memory_bytes", Integer),
    Column("jobs", Integer),
)
keepers = Table(
    "keepers",
    metadata,
    Column("schema", Integer, primary_key=True, autoincrement=False),
    Column("fence", Integer, nullable=False),
    Column("beat", Integer, nullable=False),
    Column("holder", Text, nullable=False),
)
"""One row: who keeps the queue. `fence` grows with every keeper, `beat` with every sign of life."""


class DatabaseAway(QueueError):
    """The database does not answer; what was written before is kept."""


class Database:
    """Transactions on the tables; safe to share between threads, not over a fork."""

    def __init__(self, url: str, patience_s: float) -> None:
        """Open it, and make its tables where there are none.

        Raises:
            DatabaseAway: it cannot be reached within `patience_s` seconds.
            QueueError: the address is none, the file is something else or broken, or the tables are
                of another version.
        """
        self.patience_s = patience_s
        try:
            parsed = make_url(url)
            self.engine = create_engine(parsed, pool_pre_ping=parsed.drivername != "sqlite")
        except (ArgumentError, NoSuchModuleError) as error:
            raise QueueError(
                f"queue database {url!r}: {error}; e.g. sqlite:////home/me/queue.db or "
                "postgresql+psycopg://me@host/queue"
            ) from error
        except ModuleNotFoundError as error:
            raise QueueError(
                f"queue database {parsed.drivername}: {error}; pip install 'orchestrate[postgres]'"
            ) from error
        self.where = parsed.render_as_string(hide_password=True)
        self._file: Path | None = None
        self._inode: int | None = None
        if self.engine.dialect.name == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise QueueError(
                    f"queue database {url!r} is in memory and would be lost with this process; "
                    "name a file: sqlite:////home/me/queue.db"
                )
            self._file = Path(parsed.database)
            _on_sqlite(self.engine)
        self.write(self._make)
        if self._file is not None:
            self._inode = self._file.stat().st_ino

    def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` gives, in one transaction; all of it is kept or nothing.

        `work` is carried out again if another client was in the way, so it must do nothing else.

        Raises:
            DatabaseAway: not within the patience of this object.
        """
        return self._patiently(work, immediate=True)

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` reads, of one moment; it holds nobody up.

        Raises:
            DatabaseAway: not within the patience of this object.
        """
        return self._patiently(work, immediate=False)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _patiently(self, work: Callable[[Connection], T], immediate: bool) -> T:
        end, collided = time.monotonic() + self.patience_s, False
        while True:
            try:
                self._same_file()
                with self.engine.connect() as connection:
                    connection.execution_options(immediate=immediate)
                    with connection.begin():
                        return work(connection)
            except IntegrityError:
                # Of two that insert one key, the second finds the first's row when it tries again.
                if collided:
                    raise
                collided = True
            except (OperationalError, InterfaceError) as error:
                if time.monotonic() > end:
                    raise self._away(str(error.orig)) from error
                time.sleep(PAUSE_S)
            except DatabaseError as error:
                if type(error) is not DatabaseError:
                    raise
                raise QueueError(f"{self.where} cannot be a queue: {error.orig}") from error

    def _same_file(self) -> None:
        """A removed file still takes writes through an open connection, and then they are gone."""
        if self._file is None or self._inode is None:
            return
        try:
            same = self._file.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise DatabaseAway(
                f"the file of the queue's database {self.where} was removed or replaced while it "
                "was in use; put it back, or start the queue again to begin an empty one"
            )

    def _away(self, why: str) -> DatabaseAway:
        return DatabaseAway(
            f"the queue's database {self.where} does not answer for {self.patience_s:g} s: {why}. "
            "What was written before is kept and running jobs go on; bring it back, then do the "
            "same again"
        )

    def _make(self, connection: Connection) -> None:
        if connection.dialect.name == "postgresql":  # two that make the same table at once fail
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        metadata.create_all(connection)
        found = connection.execute(select(keepers.c.schema)).scalar()
        if found is None:
            connection.execute(insert(keepers).values(schema=SCHEMA, fence=0, beat=0, holder=""))
        elif found != SCHEMA:
            raise QueueError(
                f"the queue's database {self.where} has tables of version {found}, this program "
                f"knows version {SCHEMA}; use the version of orchestrate that made it"
            )


def has_password(url: str) -> bool:
    """Whether the address of a database holds a password; one that is no address holds none."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return False
    return bool(parsed.password or "password" in parsed.query)


def _on_sqlite(engine: Any) -> None:
    """Begin transactions ourselves: sqlite3 begins late, with the first write, and unlocked."""

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None
        for pragma in (
            f"busy_timeout={BUSY_S * 1000:.0f}",
            "journal_mode=WAL",
            "synchronous=FULL",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
