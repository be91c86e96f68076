"""The filter for personal data: addresses and numbers that name or reach a person.

Shapes first, then whatever check the number itself allows: python-stdnum's for cards, IBANs and
social security numbers, a public address for IP. So a version number or an order number is rarely
taken for one, and a number that no rule can check (phones) must be written like one.
"""

import ipaddress
import re
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, NamedTuple

from stdnum import iban, luhn
from stdnum.us import ssn

from data.files import DataError
from data.filters.rules import Rule, Verdict, excerpt, limits, option
from data.records import Record

Span = tuple[int, int]
KINDS = ("email", "iban", "credit_card", "ssn", "ipv6", "ipv4", "phone")
"""In the order in which they claim characters: digits of a card are no phone number."""


class Found(NamedTuple):
    """One piece of personal data in a text."""

    start: int
    stop: int
    kind: str

    @property
    def placeholder(self) -> str:
        """What stands in its place afterwards: <EMAIL>."""
        return f"<{self.kind.upper()}>"


@dataclass(frozen=True)
class Personal(Rule):
    """Replaces personal data by placeholders such as <EMAIL>, or leaves its texts out."""

    example: ClassVar[str] = "{name: personal, action: redact}"
    packages: ClassVar[tuple[str, ...]] = ("python-stdnum",)
    action: str = option("redact", choices=("redact", "drop"))
    """redact: put a placeholder in its place; drop: leave the record out."""
    kinds: list[str] = field(default_factory=lambda: list(KINDS), metadata=limits(choices=KINDS))
    """What is looked for: email, iban, credit_card, ssn (United States), ipv6, ipv4, phone."""

    def check(self, where: str) -> None:
        """Something is looked for."""
        if not self.kinds:
            raise DataError(f"{where}.kinds=[] looks for nothing; for example kinds: [email]")

    def judge(self, record: Record) -> Verdict:
        """Spans of the record follow the text. Excerpts show placeholders, not the data."""
        found = [find_personal(text, self.kinds) for text in record.texts]
        if not any(found):
            return Verdict(record)
        texts = tuple(redact(t, f) for t, f in zip(record.texts, found, strict=True))
        number = next(k for k, f in enumerate(found) if f)
        shown = excerpt(texts[number], found[number][0].start)
        if self.action == "drop":
            kinds = sorted({f.kind for f in found[number]})
            return Verdict(record, " and ".join(kinds), shown)
        spans = tuple(shift(s, f) for s, f in zip(record.spans, found, strict=bool(record.spans)))
        counts = Counter(f.kind for pieces in found for f in pieces)
        return Verdict(replace(record, texts=texts, spans=spans), None, shown, counts)


def find_personal(text: str, kinds: Sequence[str] = KINDS) -> list[Found]:
    """The pieces of personal data in a text, in its order, none inside another."""
    found: list[Found] = []
    for kind in KINDS:
        if kind in kinds:
            for start, stop in FINDERS[kind](text):
                after = bisect(found, (start, stop))
                free_before = after == 0 or found[after - 1].stop <= start
                if free_before and (after == len(found) or stop <= found[after].start):
                    found.insert(after, Found(start, stop, kind))
    return found


def redact(text: str, found: Sequence[Found]) -> str:
    """The text with a placeholder for each piece."""
    parts, end = [], 0
    for piece in found:
        parts += [text[end : piece.start], piece.placeholder]
        end = piece.stop
    return "".join([*parts, text[end:]])


def shift(spans: Sequence[Span], found: Sequence[Found]) -> tuple[Span, ...]:
    """Character ranges of a text as ranges of its redacted form.

    A placeholder belongs to a range that held all of its piece. A range that held a part of it
    loses that part, and is gone if it held no more than that.
    """
    moved = []
    for start, stop in spans:
        first, last = _moved(start, found, ends=False), _moved(stop, found, ends=True)
        if first < last or start == stop:
            moved.append((first, max(first, last)))
    return tuple(moved)


def _moved(place: int, found: Sequence[Found], *, ends: bool) -> int:
    """Where a boundary between characters is afterwards; inside a piece it leaves its range."""
    by = 0
    for piece in found:
        if place <= piece.start:
            break
        grown = len(piece.placeholder) - (piece.stop - piece.start)
        if place < piece.stop:
            return piece.start + by + (0 if ends else len(piece.placeholder))
        by += grown
    return place + by


# Each pattern starts with one character or class, for which `re` scans fast; what may not stand
# before it is therefore said after it, by a look-behind.
EMAIL = re.compile(r"[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w@])")
IBAN = re.compile(r"[A-Z](?<![A-Za-z0-9][A-Z])[A-Z]\d\d(?= ?[A-Z0-9])")
IBAN_REST = re.compile(r"(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])")
CARD = re.compile(r"\d(?<![\w.,+-]\d)(?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
SSN = re.compile(r"\d(?<![\w.,+-]\d)\d\d-\d\d-\d{4}(?![\w-]|[.,]\d)")
IPV6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,34}(?![\w:])")
IPV4 = re.compile(r"\d(?<![\w.-]\d)\d{0,2}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w-]|\.\d)")
INTERNATIONAL = re.compile(
    r"\+(?<![\w+]\+)[1-9]\d{0,2}(?:[ .-]?\(\d{1,4}\))?(?:[ .-]?\d{2,4}){2,5}(?![\w-]|[.,]\d)"
)
AMERICAN = re.compile(
    r"[(\d](?<![\w.,+-][(\d])(?:(?<=\()\d{3}\) ?|(?<=1)[-. ]\d{3}[-. ]|(?<=\d)\d\d[-. ])"
    r"\d{3}[-. ]\d{4}(?![\w-]|[.,]\d)"
)
# Leading digits and lengths of the card networks: of random digits, one in ten passes Luhn.
NETWORKS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3[0689]\d{12}|35\d{14}|6\d{15}"
)


def _emails(text: str) -> Iterator[Span]:
    if "@" in text:
        for match in EMAIL.finditer(text):
            yield match.span()


def _ibans(text: str) -> Iterator[Span]:
    for match in IBAN.finditer(text):
        rest = IBAN_REST.match(text, match.end())
        number = match.group() + (rest.group() if rest else "")
        while number and not iban.is_valid(number, check_country=False):
            number = number.rpartition(" ")[0]  # words in capitals may follow it
        if number:
            yield match.start(), match.start() + len(number)


def _cards(text: str) -> Iterator[Span]:
    for match in CARD.finditer(text):
        digits = re.sub("[ -]", "", match.group())
        if NETWORKS.fullmatch(digits) and luhn.is_valid(digits):
            yield match.span()


def _ssns(text: str) -> Iterator[Span]:
    return (match.span() for match in SSN.finditer(text) if ssn.is_valid(match.group()))


def _addresses(pattern: re.Pattern[str]) -> Callable[[str], Iterator[Span]]:
    """Finds public addresses: those of a home network or of examples say nothing of anybody."""

    def find(text: str) -> Iterator[Span]:
        for match in pattern.finditer(text):
            try:
                if ipaddress.ip_address(match.group()).is_global:
                    yield match.span()
            except ValueError:
                pass  # 999.1.1.1: the shape alone

    return find


def _phones(text: str) -> Iterator[Span]:
    """Written with + and the country, or like 555-123-4567; E.164 allows 8 to 15 digits."""
    for pattern in (INTERNATIONAL, AMERICAN):
        for match in pattern.finditer(text):
            if 8 <= sum(map(str.isdigit, match.group())) <= 15:
                yield match.span()


FINDERS: dict[str, Callable[[str], Iterator[Span]]] = {
    "email": _emails,
    "iban": _ibans,
    "credit_card": _cards,
    "ssn": _ssns,
    "ipv6": _addresses(IPV6),
    "ipv4": _addresses(IPV4),
    "phone": _phones,
}
