"""What every record of a dataset must satisfy, checked while it is read.

Columns: there, and of their type. NaN and infinity, which Python writes into JSON, are numbers;
NaN is taken for a missing one, as pandas means it. Texts: whole UTF-8 without NUL, not longer than
allowed, not empty where that is asked. Messages say column, value, rule and what to set; who calls
puts file and row in front.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from data.config import ContractConfig
from data.files import DataError
from data.messages import cut, listed, nearest, override, shown

KINDS: dict[type, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "number",
    list: "list",
    dict: "object",
    bytes: "binary",
    type(None): "null",
}
TRUTH = {"true": True, "false": False, "1": True, "0": False}
Row = Mapping[str, Any]


class ColumnError(DataError):
    """A column is not there or has another type: a comparison with the first file helps."""


def kind_of(value: Any) -> str:
    """The type of a value in the words of a contract."""
    return KINDS.get(type(value), type(value).__name__)


def no_column(setting: str, column: str, names: Iterable[str]) -> ColumnError:
    """The error of a column that a setting names and a file lacks."""
    names = list(names)
    remedy = f"take {cut(column)} out of it"
    if setting == "data.text_column":
        near = nearest(column, names)
        remedy = f"set {override(setting, near) if near else f'{setting}=NAME'}"
    return ColumnError(
        f"{setting}={cut(column)} is not a column; there are: {listed(names)} ({remedy})"
    )


def check_size(name: str, value: Any) -> None:
    """Raise ColumnError for a whole number that no column of a table can hold."""
    if isinstance(value, int) and value.bit_length() > 63:
        raise ColumnError(
            f"{name} holds {shown(value)}, and whole numbers have at most 64 bits here, with their "
            "sign; keep it as a string"
        )


class Contract:
    """The rules of one dataset.

    Args:
        rules: the settings.
        as_text: whether all values come as text (csv), so that they are converted before they are
            checked; an empty field is null, but in a column of strings.
    """

    def __init__(self, rules: ContractConfig, *, as_text: bool = False) -> None:
        """Keep the rules."""
        self.rules = rules
        self.as_text = as_text
        self.names = tuple(dict.fromkeys([*rules.columns, *rules.not_null]))
        """Columns that must be read for the rules."""

    def check(self, row: Row) -> Row:
        """Check the columns of a record; gives it back, converted where it came as text.

        Raises:
            DataError: a column is missing, has another type, or is null where that is not allowed.
        """
        if not self.names:
            return row
        converted = dict(row) if self.as_text else row
        for name, kind in self.rules.columns.items():
            if name not in row:
                raise no_column("data.contract.columns", name, row)
            value = row[name]
            if self.as_text:
                value = converted[name] = _convert(name, value, kind)  # type: ignore[index]
            if value is not None and not _fits(value, kind):
                raise ColumnError(
                    f"{name} holds {_a(kind_of(value))}, {shown(value)}, but data.contract.columns "
                    f"says {kind}; repair the record or set data.contract.columns.{name}="
                    f"{kind_of(value)}"
                )
        for name in self.rules.not_null:
            if name not in row:
                raise no_column("data.contract.not_null", name, row)
            if (value := converted[name]) is None or _is_nan(value):
                raise DataError(
                    f"{name} is {'null' if value is None else 'NaN'}, but data.contract.not_null "
                    f"names it; repair or drop the record, or take {name} out of "
                    "data.contract.not_null"
                )
        return converted

    def check_texts(self, texts: tuple[str, ...], columns: tuple[str, ...]) -> None:
        """Check the texts that will be trained on.

        Args:
            texts: of one record.
            columns: what messages call each of them.

        Raises:
            DataError: not UTF-8, a NUL, longer than allowed, or empty where that is not allowed.
        """
        longest = self.rules.max_characters
        for text, column in zip(texts, columns, strict=True):
            check_utf8(text, column)
            if longest is not None and len(text) > longest:
                raise DataError(
                    f"{column} has {len(text):,} characters, more than "
                    f"data.contract.max_characters={longest} ({shown(text)}); cut or drop the "
                    f"record, or set data.contract.max_characters={len(text)}"
                )
            if self.rules.not_empty and not text.strip():
                raise DataError(
                    f"{column} is empty ({shown(text)}), but data.contract.not_empty=true; repair "
                    "or drop the record, or set data.contract.not_empty=false"
                )


def check_utf8(text: str, column: str) -> None:
    """Refuse what no text file can hold: half of a surrogate pair, and NUL.

    Raises:
        DataError: says which and at which character.
    """
    if text.isascii():
        if (nul := text.find("\0")) < 0:
            return
    else:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{column} holds half of a surrogate pair (U+{ord(text[error.start]):04X} at "
                f"character {error.start}), which no UTF-8 text can; repair or drop this record"
            ) from None
        nul = text.find("\0")
    if nul >= 0:
        raise DataError(
            f"{column} holds a NUL (U+0000 at character {nul}), which is not text; repair or drop "
            "this record"
        )


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else ("null" if kind == "null" else f"a {kind}")


def text_of(value: Any, column: str) -> str:
    """A value as a text; None is an empty one.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if _is_nan(value):
        raise ColumnError(f"{column} holds NaN, not text; write null where there is no text")
    raise ColumnError(
        f"{column} holds {_a(kind_of(value))}, {shown(value)}, not text; repair the record, or set "
        "data.text_column=ANOTHER"
    )


def _fits(value: Any, kind: str) -> bool:
    found = kind_of(value)
    return found == kind or (kind == "number" and found == "integer")


def _convert(name: str, text: Any, kind: str) -> Any:
    """A field of a csv file as what the contract says it is."""
    if kind == "string" or not isinstance(text, str):
        return text
    if not text.strip():
        return None
    try:
        if kind == "integer":
            return int(text)
        if kind == "number":
            return float(text)
        if kind == "boolean":
            return TRUTH[text.strip().lower()]
    except (ValueError, KeyError):
        pass
    raise ColumnError(
        f"{name} holds {shown(text)}, but data.contract.columns says {kind}; repair the record or "
        f"set data.contract.columns.{name}=string"
    )


def column_changes(first: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """What is different in the columns of a second file: which came, went or changed type."""
    went = [f"column {name} ({first[name]}) went" for name in first if name not in other]
    came = [f"column {name} ({other[name]}) came" for name in other if name not in first]
    changed = [
        f"column {name} was {first[name]} and is {other[name]}"
        for name in first
        if name in other
        and first[name] != other[name]
        # All of a column may be null in one file.
        and "null" not in (first[name], other[name])
    ]
    return went + came + changed


def column_types(rows: Iterable[Row]) -> dict[str, str]:
    """The type of each column that some record has; `mixed` where records differ."""
    kinds: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            kinds[name] = _common(kinds.get(name, "null"), kind_of(value))
    return kinds


def _common(a: str, b: str) -> str:
    if "null" in (a, b) or a == b:
        return b if a == "null" else a
    return "number" if {a, b} == {"integer", "number"} else "mixed"
