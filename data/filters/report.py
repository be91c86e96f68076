"""What filters left out: counts, and a few examples of each, the same for any number of workers.

Each worker fills a report of its own; `merge` adds them up in any order and grouping. The examples
that are kept are those with the smallest keyed hash of their place, so the choice depends on what
was dropped and on nothing else.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

EXAMPLES = 5  # kept per filter
HEADS = ("filter", "seen", "dropped", "share", "bytes", "why")
_SHOWN = 60  # characters of an example in a line of text


class Example(NamedTuple):
    """A record that a filter left out or changed."""

    key: str
    """Keyed hash of filter, place and reason; the smallest ones are kept."""
    place: str
    reason: str
    excerpt: str


@dataclass
class FilterCount:
    """What one filter did."""

    name: str
    options: str = ""
    """Its options as declared: min=20."""
    seen: int = 0
    """Records that reached it."""
    dropped: int = 0
    """Records that it left out."""
    bytes_dropped: int = 0
    """UTF-8 bytes of their texts."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Dropped records by reason."""
    redactions: Counter[str] = field(default_factory=Counter)
    """Pieces that were replaced, by kind."""
    redacted: int = 0
    """Records in which something was replaced."""
    examples: list[Example] = field(default_factory=list)
    """The EXAMPLES records with the smallest keys."""

    @property
    def label(self) -> str:
        """Name and options."""
        return f"{self.name} {self.options}".strip()

    def keep(self, place: str, reason: str, excerpt: str) -> None:
        """Keep an example if its key is one of the smallest."""
        parts = "\0".join((self.label, place, reason)).encode("utf-8", "surrogatepass")
        key = hashlib.blake2b(parts, digest_size=8, key=b"filter example").hexdigest()
        self.examples = sorted([*self.examples, Example(key, place, reason, excerpt)])[:EXAMPLES]

    def __add__(self, other: "FilterCount") -> "FilterCount":
        """The counts of both, and the smallest examples of both."""
        return FilterCount(
            self.name,
            self.options,
            self.seen + other.seen,
            self.dropped + other.dropped,
            self.bytes_dropped + other.bytes_dropped,
            self.reasons + other.reasons,
            self.redactions + other.redactions,
            self.redacted + other.redacted,
            sorted([*self.examples, *other.examples])[:EXAMPLES],
        )


@dataclass
class Report:
    """What each filter did, in the order of application."""

    filters: list[FilterCount] = field(default_factory=list)

    def __getitem__(self, which: int | str) -> FilterCount:
        """By its number in the order, or the first of a name."""
        if isinstance(which, int):
            return self.filters[which]
        return next(f for f in self.filters if f.name == which)

    def see(self, which: int | str, records: int = 1) -> None:
        """Count records that reach a filter."""
        self[which].seen += records

    def drop(
        self,
        which: int | str,
        place: str,
        reason: str,
        texts: Sequence[str],
        excerpt: str,
        detail: str = "",
    ) -> None:
        """Count a record that a filter leaves out.

        Args:
            which: the filter's number or name.
            reason: counted by; one of few.
            texts: for their bytes.
            detail: follows the reason in the examples: of which record it is a copy.
        """
        count = self[which]
        count.dropped += 1
        count.bytes_dropped += sum(len(text.encode("utf-8")) for text in texts)
        count.reasons[reason] += 1
        count.keep(place, f"{reason} {detail}".strip(), excerpt)

    def redact(self, which: int | str, place: str, kinds: Mapping[str, int], excerpt: str) -> None:
        """Count what a filter replaced in a record that it keeps."""
        count = self[which]
        count.redacted += 1
        count.redactions.update(kinds)
        count.keep(place, f"redacted {', '.join(sorted(kinds))}", excerpt)

    @property
    def seen(self) -> int:
        """Records that reached the first filter."""
        return self.filters[0].seen if self.filters else 0

    @property
    def kept(self) -> int:
        """Records that the last filter left."""
        return self.filters[-1].seen - self.filters[-1].dropped if self.filters else 0

    def left_out(self) -> str:
        """How many records each filter left out: length min=20: 3, no_text: 2; "" for none."""
        return ", ".join(f"{own.label}: {own.dropped:,}" for own in self.filters if own.dropped)

    def merge(self, other: "Report") -> "Report":
        """The report of both parts of the records; an empty report changes nothing.

        Raises:
            ValueError: the two are of different filters.
        """
        if not self.filters or not other.filters:
            filled = self.filters or other.filters
            return Report([count + FilterCount(count.name, count.options) for count in filled])
        labels = [f.label for f in self.filters], [f.label for f in other.filters]
        if labels[0] != labels[1]:
            raise ValueError(f"reports of different filters: {labels[0]} and {labels[1]}")
        return Report([a + b for a, b in zip(self.filters, other.filters, strict=True)])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        filters = []
        for count in self.filters:
            values: dict[str, Any] = {**vars(count), "examples": [*map(list, count.examples)]}
            for name in ("reasons", "redactions"):
                values[name] = dict(sorted(values[name].items()))
            filters.append(values)
        return {"filters": filters}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Report":
        """The report that `to_dict` gave."""
        return cls([_count(item) for item in values["filters"]])

    def lines(self) -> list[str]:
        """A table with a line per filter, examples below it."""
        rows: list[tuple[str, ...]] = [HEADS]
        rows += [_row(count) for count in self.filters]
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        lines = []
        for number, row in enumerate(rows):
            cells = [row[0].ljust(widths[0]), *(row[k].rjust(widths[k]) for k in range(1, 5))]
            lines.append("  ".join([*cells, row[5]]).rstrip())
            for example in self.filters[number - 1].examples if number else ():
                shown = example.excerpt[:_SHOWN] + "..." * (len(example.excerpt) > _SHOWN)
                lines.append(f"    {example.place} ({example.reason}): {shown}")
        return lines

    def markdown(self) -> str:
        """The table and the examples as Markdown, for the record of a run."""
        lines = [f"| {' | '.join(HEADS)} |", "|---|--:|--:|--:|--:|---|"]
        lines += [_markdown_row(_row(count)) for count in self.filters]
        lines += ["", f"{self.kept:,} of {self.seen:,} records kept.", ""]
        if any(count.examples for count in self.filters):
            lines += ["| filter | place | reason | excerpt |", "|---|---|---|---|"]
        for count in self.filters:
            for example in count.examples:
                lines.append(_markdown_row((count.label, *example[1:])))
        return "\n".join(lines).rstrip() + "\n"


def _count(values: Mapping[str, Any]) -> FilterCount:
    return FilterCount(
        **{
            **values,
            "reasons": Counter(values["reasons"]),
            "redactions": Counter(values["redactions"]),
            "examples": [Example(*example) for example in values["examples"]],
        }
    )


def _row(count: FilterCount) -> tuple[str, ...]:
    share = f"{count.dropped / count.seen:.1%}" if count.seen else "-"
    why = [f"{reason}: {n:,}" for reason, n in _largest(count.reasons)]
    why += [f"redacted {kind}: {n:,}" for kind, n in _largest(count.redactions)]
    numbers = (f"{count.seen:,}", f"{count.dropped:,}", share, f"{count.bytes_dropped:,}")
    return (count.label, *numbers, "; ".join(why))


def _largest(counts: Counter[str]) -> list[tuple[str, int]]:
    """By size, then name: not by which worker was first."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _markdown_row(cells: Iterable[str]) -> str:
    """Text of a corpus may hold anything: nothing of it may end a cell or become markup."""
    safe = []
    for cell in cells:
        for mark in "\\`*_[]<>|#~$":
            cell = cell.replace(mark, f"\\{mark}")
        safe.append(" ".join(cell.split()))
    return f"| {' | '.join(safe)} |"
