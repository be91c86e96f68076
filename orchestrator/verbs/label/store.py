"""Items, labellers and judgements in SQLite or PostgreSQL.

A judgement is on the disk before its labeller is told so, and is never changed: undone, it is
marked, and another one may follow.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    select,
    update,
)

from cluster.database import Database
from orchestrator.stages.asking.items import Item

PATIENCE_S = 5.0
BATCH = 500  # rows of one statement: SQLite takes so many variables
metadata = MetaData()
items = Table(
    "label_items",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("place", String(32), nullable=False, index=True),
    Column("prompt", Text, nullable=False),
    Column("first", Text, nullable=False),
    Column("second", Text),
    Column("gold", Float),
)
judgements = Table(
    "label_judgements",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("item", String(32), nullable=False, index=True),
    Column("labeller", String(64), nullable=False, index=True),
    Column("value", Float),
    Column("first_left", Boolean, nullable=False),
    Column("note", Text, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("at_s", Float, nullable=False),
    Column("undone", Boolean, nullable=False, default=False),
)
keys = Table("label_keys", metadata, Column("secret", String(64), primary_key=True))


class LabelError(ValueError):
    """What was asked of the labels cannot be done."""


class LabelsAway(LabelError):
    """Their database does not answer."""


class AlreadyJudged(LabelError):
    """The labeller has judged the item, perhaps on another page."""


class LabelDatabase(Database):
    """The database of labels."""

    what, tables = "labels", metadata
    wrong, away = LabelError, LabelsAway
    meanwhile = "open pages keep what is typed"

    def begin(self, connection: Connection) -> None:
        """See the base class."""
        if connection.execute(select(keys.c.secret)).first() is None:
            connection.execute(insert(keys).values(secret=secrets.token_hex(32)))


@dataclass(frozen=True)
class Judgement:
    """What a labeller said of an item."""

    id: str
    """Chosen by the page: sent twice, it is one."""
    item: str
    labeller: str
    value: float | None
    """1 if the first answer is better, 0 if the second, 0.5 for neither; a rating from 1 to 5;
    None: passed over."""
    first_left: bool
    """Whether the first answer stood on the left."""
    note: str = ""
    seconds: float = 0.0
    """From the item's appearance to the answer."""


class Store:
    """The labels in their database; its methods may be called by several threads."""

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        """Open it, and make it where there is none.

        Raises:
            LabelError: the address is none, or the database does not answer.
        """
        self._database = LabelDatabase(url, patience_s)
        self._secret = self._database.read(
            lambda it: it.execute(select(keys.c.secret)).scalar_one()
        )

    def close(self) -> None:
        """Close all connections."""
        self._database.close()

    def token(self, labeller: str) -> str:
        """What proves that a page is this labeller's; the same after a restart."""
        return hmac.new(self._secret.encode(), labeller.encode(), sha256).hexdigest()[:32]

    def add(self, new: Sequence[Item]) -> int:
        """Put items in, and return how many were not there before."""

        def work(connection: Connection) -> int:
            known = set(connection.scalars(select(items.c.id)))
            rows = [
                {
                    "id": item.id,
                    # An order of its own, so that known items stand among the others.
                    "place": sha256(f"place {item.id}".encode()).hexdigest()[:32],
                    "prompt": item.prompt,
                    "first": item.first,
                    "second": item.second,
                    "gold": item.gold,
                }
                for item in new
                if item.id not in known
            ]
            for at in range(0, len(rows), BATCH):
                connection.execute(insert(items), rows[at : at + BATCH])
            return len(rows)

        return self._database.write(work)

    def next(self, labeller: str, overlap: int, taken: Iterable[str] = ()) -> Item | None:
        """The next item that this labeller has not judged and that still needs judgements.

        Args:
            labeller: who asks.
            overlap: judgements wanted of each item; a known one is judged by all.
            taken: ids of items that others have before them; one of these is given only if there is
                nothing else.
        """
        live = judgements.c.undone.is_(False)
        mine = select(judgements.c.item).where(live, judgements.c.labeller == labeller)
        enough = (
            select(judgements.c.item)
            .where(live, judgements.c.value.is_not(None))
            .group_by(judgements.c.item)
            .having(func.count() >= overlap)
        )
        wanted = (
            select(items)
            .where(items.c.id.not_in(mine), items.c.gold.is_not(None) | items.c.id.not_in(enough))
            .order_by(items.c.place)
            .limit(1)
        )

        def work(connection: Connection) -> Item | None:
            free = wanted.where(items.c.id.not_in(list(taken)))
            row = connection.execute(free).first() or connection.execute(wanted).first()
            return None if row is None else _item(row)

        return self._database.read(work)

    def judge(self, judgement: Judgement) -> None:
        """Keep a judgement; one that is there already stays as it is.

        Raises:
            AlreadyJudged: the labeller has another one of this item.
            LabelError: there is no such item, or the value is none for it.
        """

        def work(connection: Connection) -> None:
            if connection.execute(
                select(judgements.c.id).where(judgements.c.id == judgement.id)
            ).first():
                return
            found = connection.execute(select(items).where(items.c.id == judgement.item)).first()
            if found is None:
                raise LabelError(f"there is no item {judgement.item[:32]!r}")
            rates, value = found.second is None, judgement.value
            if value is not None and value not in ((1, 2, 3, 4, 5) if rates else (0, 0.5, 1)):
                raise LabelError(f"{value} is no judgement of this item")
            if connection.execute(
                select(judgements.c.id).where(
                    judgements.c.item == judgement.item,
                    judgements.c.labeller == judgement.labeller,
                    judgements.c.undone.is_(False),
                )
            ).first():
                raise AlreadyJudged("this item was judged on another page of yours")
            connection.execute(
                insert(judgements).values(**vars(judgement), at_s=time.time(), undone=False)
            )

        self._database.write(work)

    def undo(self, labeller: str) -> Item | None:
        """Mark the labeller's last judgement as undone, and return its item, if there is one."""

        def work(connection: Connection) -> Item | None:
            last = connection.execute(
                select(judgements.c.id, judgements.c.item)
                .where(judgements.c.labeller == labeller, judgements.c.undone.is_(False))
                .order_by(judgements.c.at_s.desc())
                .limit(1)
            ).first()
            if last is None:
                return None
            connection.execute(
                update(judgements).where(judgements.c.id == last.id).values(undone=True)
            )
            return _item(connection.execute(select(items).where(items.c.id == last.item)).one())

        return self._database.write(work)

    def all(self) -> tuple[list[Item], list[Judgement]]:
        """Every item, and every judgement that was not undone, oldest first."""

        def work(connection: Connection) -> tuple[list[Item], list[Judgement]]:
            live = select(judgements).where(judgements.c.undone.is_(False))
            return (
                [_item(row) for row in connection.execute(select(items).order_by(items.c.place))],
                [
                    Judgement(
                        row.id, row.item, row.labeller, row.value, row.first_left, row.note,
                        row.seconds,
                    )
                    for row in connection.execute(live.order_by(judgements.c.at_s))
                ],
            )  # fmt: skip

        return self._database.read(work)

    def progress(self, labeller: str) -> tuple[int, int]:
        """How many items this labeller has judged, and how many there are."""

        def work(connection: Connection) -> tuple[int, int]:
            own = select(func.count()).where(
                judgements.c.labeller == labeller, judgements.c.undone.is_(False)
            )
            return (
                connection.execute(own).scalar_one(),
                connection.execute(select(func.count()).select_from(items)).scalar_one(),
            )

        return self._database.read(work)


def _item(row: object) -> Item:
    names = ("prompt", "first", "second", "gold")
    return Item(*(getattr(row, name) for name in names))
