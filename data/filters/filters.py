"""Filters: a declared, ordered list of what is left out, with counts and examples of each.

    filters: [{name: length, min: 20}, {name: personal}, {name: near_duplicates, threshold: 0.8}]

1. Local filters look at one record at a time, in the declared order, wherever the record is read.
2. no_text, which is always on, leaves out records whose text is empty, null or white space.
3. exact_duplicates, which is always on, keeps the first of equal records (data/preparation/).
4. near_duplicates, if declared, keeps the first of similar ones (data/filters/duplicates.py).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, ClassVar

from data.files import DataError, sha256_file
from data.filters.content import Language, Score, Words
from data.filters.decontaminate import Decontaminate
from data.filters.duplicates import NearDuplicates
from data.filters.personal import Personal
from data.filters.quality import Length, Repetition, Symbols
from data.filters.report import FilterCount, Report
from data.filters.rules import Rule, rule_of
from data.messages import check_choice
from data.records import Record

FILTERS_VERSION = 2  # raise it when the same settings keep other records
EMPTY = "no_text"
EXACT = "exact_duplicates"
NEAR = "near_duplicates"


@dataclass(frozen=True)
class ExactDuplicates(Rule):
    """The place of the exact duplicates in the order; always on, so it may be left out."""

    example: ClassVar[str] = "{name: exact_duplicates}"


FILTERS: dict[str, type[Rule]] = {
    "length": Length,
    "repetition": Repetition,
    "symbols": Symbols,
    "language": Language,
    "words": Words,
    "score": Score,
    "personal": Personal,
    "decontaminate": Decontaminate,
    EXACT: ExactDuplicates,
    NEAR: NearDuplicates,
}
DUPLICATES = (EXACT, NEAR)  # look at all records, so they come last, in this order


@dataclass(frozen=True)
class Filters:
    """The filters of a dataset, in the order of application; `filters_of` makes them."""

    local: tuple[tuple[str, Rule], ...]
    """Name and filter of those that look at one record at a time."""
    near: NearDuplicates | None
    """Settings of the near duplicates; None: they are kept."""
    declared: tuple[tuple[str, str], ...]
    """Name and options, as typed, of every filter of the report."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the records that filters read, each once."""
        return tuple(dict.fromkeys(c for _, rule in self.local for c in rule.columns()))

    def recipe(self) -> list[Any]:
        """JSON values that change whenever the filters may keep other records: all options, the
        content of files, versions of packages. The code of SCORERS is not in it, their names are.

        Raises:
            DataError: a file is gone.
        """
        rules = [*self.local, *([(NEAR, self.near)] if self.near else [])]
        parts: list[Any] = [FILTERS_VERSION]
        for name, rule in rules:
            try:
                files = [sha256_file(file) for file in rule.files()]
            except OSError as error:
                raise DataError(f"data.filters: {name} can't read its file: {error}") from None
            parts.append([name, asdict(rule), files, [version(p) for p in rule.packages]])
        return parts

    def report(self) -> Report:
        """An empty report with a line per filter."""
        return Report([FilterCount(name, options) for name, options in self.declared])

    def apply(self, records: Iterable[Record], report: Report) -> Iterator[tuple[int, Record]]:
        """Yield (row among the records given, record) of what the local filters keep.

        The record is the one to train on: personal data may have been replaced in it.

        Args:
            records: those of one unit, in its order.
            report: counts and examples are added to it as records pass; made by `report()`.

        Raises:
            DataError: a record lacks what a filter reads; names its file and row.
        """
        for row, record in enumerate(records):
            kept = self._judge(record, report)
            if kept is not None:
                yield row, kept

    def _judge(self, record: Record, report: Report) -> Record | None:
        """The record after all local filters, or None when one left it out."""
        for number, (_, rule) in enumerate(self.local):
            report.see(number)
            verdict = rule.judge(record)
            if verdict.reason is not None:
                report.drop(number, record.place, verdict.reason, record.texts, verdict.excerpt)
                return None
            if verdict.redactions:
                report.redact(number, record.place, verdict.redactions, verdict.excerpt)
            record = verdict.record
        return record


def filters_of(settings: Sequence[Mapping[str, Any]], where: str = "data.filters") -> Filters:
    """The filters that a config declares.

    Args:
        settings: one mapping per filter: its name and its options.
        where: the setting they come from, for messages: data.datasets.NAME.filters.

    Raises:
        DataError: an unknown name or option, a value out of range, a file that can't be read, or
            an order that can't be followed; names the entry and what to type.
    """
    built = []
    for number, entry in enumerate(settings):
        setting = f"{where}[{number}]"
        name = _name(entry, setting)
        options = {key: value for key, value in entry.items() if key != "name"}
        shown = " ".join(f"{key}={_shown(value)}" for key, value in options.items())
        built.append((name, shown, rule_of(FILTERS[name], options, setting)))
    _check_order([name for name, _, _ in built], where)
    local = [(name, shown, rule) for name, shown, rule in built if name not in DUPLICATES]
    near = [(shown, rule) for _, shown, rule in built if isinstance(rule, NearDuplicates)]
    declared = [(name, shown) for name, shown, _ in local]
    declared += [(EMPTY, ""), (EXACT, ""), *((NEAR, shown) for shown, _ in near)]
    return Filters(
        tuple((name, rule) for name, _, rule in local),
        near[0][1] if near else None,
        tuple(declared),
    )


def _name(entry: Any, setting: str) -> str:
    """The name of an entry of data.filters."""
    if not isinstance(entry, Mapping):
        hint = f"{{name: {entry}}}" if entry in FILTERS else Length.example
        raise DataError(f"{setting}={entry} must be a name with options; write {hint}")
    if "name" not in entry:
        raise DataError(f"{setting}={dict(entry)} has no name; write {Length.example}")
    name = entry["name"]
    check_choice(f"{setting}.name", name, FILTERS)
    return str(name)


def _shown(value: Any) -> str:
    """An option as the report shows it; of a long list the start."""
    if isinstance(value, list):
        return "[" + ",".join(map(str, value[:4])) + (",..." if len(value) > 4 else "") + "]"
    return str(value)


def _check_order(names: Sequence[str], where: str) -> None:
    """Local filters, then exact duplicates, then near duplicates, each of these at most once."""
    for name in DUPLICATES:
        if names.count(name) > 1:
            raise DataError(f"{where} names {name} {names.count(name)} times; keep one")
    ordered = sorted(
        names, key=lambda name: DUPLICATES.index(name) + 1 if name in DUPLICATES else 0
    )
    if list(names) != ordered:
        raise DataError(
            f"{where} has the order {', '.join(names)}; filters of single records come first, "
            f"then {EXACT}, then {NEAR}; write them as {', '.join(ordered)}"
        )
