"""The tables of the queue and their version."""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    insert,
    select,
)

from cluster.database import Database
from cluster.queue.job import QueueError

SCHEMA = 1
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


class QueueDatabase(Database):
    """The database of a queue."""

    what, tables = "queue", metadata
    wrong, away = QueueError, DatabaseAway
    meanwhile = "running jobs go on"

    def begin(self, connection: Connection) -> None:
        """See the base class."""
        found = connection.execute(select(keepers.c.schema)).scalar()
        if found is None:
            connection.execute(insert(keepers).values(schema=SCHEMA, fence=0, beat=0, holder=""))
        elif found != SCHEMA:
            raise QueueError(
                f"the queue's database {self.where} has tables of version {found}, this program "
                f"knows version {SCHEMA}; use the version of orchestrate that made it"
            )
