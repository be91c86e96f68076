"""Small JSON objects of the data state, read strictly: nothing missing, unknown or of another type.

Tables are stored as columns, which keeps them small.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from data.files import DataError
from data.messages import did_you_mean


def columns_of(kind: type[Any], items: Sequence[Any]) -> dict[str, list[Any]]:
    """Dataclass objects as one list for each field."""
    return {column.name: [getattr(i, column.name) for i in items] for column in fields(kind)}


def rows_of(kind: type[Any], table: object, where: str) -> list[Any]:
    """The inverse of `columns_of`; fields are of type int or str."""
    columns = entries(table, {column.name: list for column in fields(kind)}, f"{where}.")
    types = {column.name: column.type for column in fields(kind)}
    for name, values in columns.items():
        for value in values:
            check(value, types[name], f"{where}.{name}")
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise DataError(f"data state: the columns of {where} have {sorted(lengths)} rows")
    return [kind(*values) for values in zip(*columns.values(), strict=True)]


def entries(table: object, known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A dict with exactly the known keys, in their order, each value of its type."""
    if not isinstance(table, dict):
        raise DataError(f"data state: {where or 'it'} must be an object, found {table!r:.80}")
    for key in table:
        if key not in known:
            raise DataError(f"data state: unknown key {where}{key}{did_you_mean(str(key), known)}")
    for key, kind in known.items():
        if key not in table:
            raise DataError(f"data state: {where}{key} is missing; the state is damaged")
        check(table[key], kind, f"{where}{key}")
    return {key: table[key] for key in known}


def check(value: object, kind: Any, where: str) -> None:
    """Raises DataError unless the value is exactly of a JSON type, and a number not negative."""
    if type(value) is not kind or (kind is int and isinstance(value, int) and value < 0):
        wanted = {int: "a whole number of at least 0", str: "text", list: "a list"}
        raise DataError(
            f"data state: {where}={value!r:.80} must be {wanted.get(kind, 'an object')}; "
            "the state is damaged"
        )
