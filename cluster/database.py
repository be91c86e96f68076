"""Tables in SQLite or PostgreSQL that outlive whoever writes them: transactions and patience.

SQLite in a file by default, PostgreSQL by URL. Every write is one transaction that holds the write
lock from its first statement (`BEGIN IMMEDIATE`), so what it reads cannot change before it commits,
and is on the disk when it returns (`synchronous=FULL`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from sqlalchemy import Connection, MetaData, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
)

BUSY_S = 1.0  # SQLite's own wait for a lock; patience goes on in steps of it
PAUSE_S = 0.05
LOCK = 0x6F726368  # names our advisory lock among those of a PostgreSQL database

T = TypeVar("T")


class Database:
    """Transactions on the tables; safe to share between threads, not over a fork.

    A subclass says whose they are: `what` it is called, its tables, the error of a wrong address
    and that of a database that does not answer, and what goes on in that time.
    """

    what: ClassVar[str]
    tables: ClassVar[MetaData]
    wrong: ClassVar[type[ValueError]]
    away: ClassVar[type[ValueError]]
    meanwhile: ClassVar[str]

    def __init__(self, url: str, patience_s: float) -> None:
        """Open it, and make its tables where there are none.

        Raises:
            away: it cannot be reached within `patience_s` seconds.
            wrong: the address is none, the file is something else or broken, or the tables are of
                another version.
        """
        self.patience_s = patience_s
        try:
            parsed = make_url(url)
            self.engine = create_engine(parsed, pool_pre_ping=parsed.drivername != "sqlite")
        except (ArgumentError, NoSuchModuleError) as error:
            raise self.wrong(
                f"{self.what} database {url!r}: {error}; e.g. sqlite:////home/me/{self.what}.db "
                f"or postgresql+psycopg://me@host/{self.what}"
            ) from error
        except ModuleNotFoundError as error:
            raise self.wrong(
                f"{self.what} database {parsed.drivername}: {error}; "
                "pip install 'orchestrate[postgres]'"
            ) from error
        self.where = parsed.render_as_string(hide_password=True)
        self._file: Path | None = None
        self._inode: int | None = None
        if self.engine.dialect.name == "sqlite":
            if not parsed.database or parsed.database == ":memory:":
                raise self.wrong(
                    f"{self.what} database {url!r} is in memory and would be lost with this "
                    f"process; name a file: sqlite:////home/me/{self.what}.db"
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
            away: not within the patience of this object.
        """
        return self._patiently(work, immediate=True)

    def read(self, work: Callable[[Connection], T]) -> T:
        """What `work` reads, of one moment; it holds nobody up.

        Raises:
            away: not within the patience of this object.
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
                raise self.wrong(f"{self.where} cannot be a {self.what}: {error.orig}") from error

    def _same_file(self) -> None:
        """A removed file still takes writes through an open connection, and then they are gone."""
        if self._file is None or self._inode is None:
            return
        try:
            same = self._file.stat().st_ino == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            raise self.away(
                f"the file of the {self.what}'s database {self.where} was removed or replaced "
                f"while it was in use; put it back, or start the {self.what} again to begin an "
                "empty one"
            )

    def _away(self, why: str) -> ValueError:
        return self.away(
            f"the {self.what}'s database {self.where} does not answer for {self.patience_s:g} s: "
            f"{why}. What was written before is kept and {self.meanwhile}; bring it back, then do "
            "the same again"
        )

    def _make(self, connection: Connection) -> None:
        if connection.dialect.name == "postgresql":  # two that make the same table at once fail
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        self.tables.create_all(connection)
        self.begin(connection)

    def begin(self, connection: Connection) -> None:
        """Write what new tables begin with, and look at the version of old ones."""


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
