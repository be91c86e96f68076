"""Parallel texts made of locale data: dates, numbers, amounts, measures and names in two languages.
From English to French there are sentences with pronouns, too (pronoun_pairs.py).

The forms are those of Unicode's CLDR as the package babel carries it, so they are real; which
values they are given is drawn. Each pair has a key that tells what it says: all pairs of a key say
the same in other words, so that a split by key holds out what was never said at all.
"""

import random
from collections.abc import Callable, Iterator
from datetime import date
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Literal

from data.files import DataError
from data.sources.pair import Pair
from data.sources.pronoun_pairs import noun_pairs, sentence_pair

if TYPE_CHECKING:
    from babel import Locale

FIRST_DAY, LAST_DAY = date(1900, 1, 1).toordinal(), date(2099, 12, 31).toordinal()
CURRENCIES = ("EUR", "USD", "GBP", "JPY", "CHF", "CAD", "AUD", "CNY", "INR", "BRL", "SEK", "PLN")
UNITS = (
    *("length-kilometer", "length-meter", "length-centimeter", "length-mile", "length-inch"),
    *("mass-kilogram", "mass-gram", "mass-pound", "mass-ounce", "mass-tonne"),
    *("volume-liter", "volume-cubic-meter", "area-hectare", "area-square-kilometer"),
    *("duration-second", "duration-minute", "duration-hour", "duration-day", "duration-week"),
    *("duration-month", "duration-year", "speed-kilometer-per-hour", "speed-meter-per-second"),
    *("temperature-celsius", "energy-kilocalorie", "power-watt", "digital-megabyte"),
)
PARTS = {"dates": 0.5, "numbers": 0.1, "currencies": 0.12, "units": 0.13, "names": 0.15}
"""Kinds of pairs, and how many of all there are of each."""
PRONOUNS = 0.1
"""Sentences with pronouns, besides, in parts of all others."""


def locale_pairs(languages: tuple[str, str], count: int, seed: int) -> Iterator[Pair]:
    """Pairs in two languages of babel: `count` of them, the names of all languages and places, and
    from English to French sentences with pronouns.

    A pair may come more than once. The same arguments give the same pairs.

    Raises:
        DataError: babel is not installed, or has no such language.
    """
    source, target = map(_locale, languages)
    for code in _languages(source, target):
        yield Pair(source.languages[code], target.languages[code], "names")
    for code in _places(source, target):
        yield Pair(source.territories[code], target.territories[code], "names")
    for kind, part in PARTS.items():
        draw = random.Random(f"{seed} {kind}")
        say = partial(FORMS[kind], source, target)
        for _ in range(round(count * part)):
            yield say(draw)
    if (source.language, target.language) == ("en", "fr"):
        yield from noun_pairs()
        draw = random.Random(f"{seed} pronouns")
        for _ in range(round(count * PRONOUNS)):
            yield sentence_pair(draw)


def _locale(name: str) -> "Locale":
    try:
        from babel import Locale, UnknownLocaleError
    except ImportError:
        raise DataError(
            "pairs of locale data need the package babel; install orchestrate[translate]"
        ) from None
    try:
        return Locale.parse(name)
    except (UnknownLocaleError, ValueError):
        raise DataError(f"babel has no language {name!r}; try en, fr, de, es or pt_BR") from None


@lru_cache
def _languages(source: "Locale", target: "Locale") -> list[str]:
    """Codes of languages that have a name in both."""
    return sorted(source.languages.keys() & target.languages.keys())


@lru_cache
def _places(source: "Locale", target: "Locale") -> list[str]:
    """Codes of countries that have a name in both."""
    both = source.territories.keys() & target.territories.keys()
    return sorted(code for code in both if code.isalpha() and code not in ("XA", "XB", "ZZ"))


def _date(source: "Locale", target: "Locale", draw: random.Random) -> Pair:
    from babel.dates import format_date

    day = date.fromordinal(draw.randint(FIRST_DAY, LAST_DAY))
    say = partial(format_date, day, draw.choice(("full", "long", "medium")))
    return Pair(say(source), say(target), "dates", f"date {day}")


def _number(source: "Locale", target: "Locale", draw: random.Random) -> Pair:
    from babel.numbers import format_decimal, format_percent

    value, form = _value(draw), draw.choice((format_decimal, format_decimal, format_percent))
    if form is format_percent:
        value = round(value) / 100  # it writes whole percents, and two that look alike are one
    say = partial(form, value)
    key = f"{form.__name__} {value}"
    return Pair(say(locale=source), say(locale=target), "numbers", key)


def _currency(source: "Locale", target: "Locale", draw: random.Random) -> Pair:
    from babel.numbers import format_currency, get_currency_precision

    code, value = draw.choice(CURRENCIES), _value(draw)
    if get_currency_precision(code) == 0:
        value = round(value)
    forms: tuple[Literal["standard", "name"], ...] = ("standard", "name")
    say = partial(format_currency, value, code, format_type=draw.choice(forms))
    key = f"currency {code} {value}"
    return Pair(say(locale=source), say(locale=target), "currencies", key)


def _unit(source: "Locale", target: "Locale", draw: random.Random) -> Pair:
    from babel.units import format_unit

    unit, value = draw.choice(UNITS), _value(draw)
    forms: tuple[Literal["long", "short"], ...] = ("long", "short")
    say = partial(format_unit, value, unit, draw.choice(forms))
    return Pair(say(locale=source), say(locale=target), "units", f"unit {unit} {value}")


def _name(source: "Locale", target: "Locale", draw: random.Random) -> Pair:
    """A language as it is spoken in a place, such as French (Canada)."""
    language = draw.choice(_languages(source, target))
    place = draw.choice(_places(source, target))

    def say(locale: "Locale") -> str:
        return f"{locale.languages[language]} ({locale.territories[place]})"

    return Pair(say(source), say(target), "names", f"name {language} {place}")


def _value(draw: random.Random) -> float:
    """A number of 1 to 6 digits, some of them behind the point."""
    whole = draw.randint(1, 10 ** draw.randint(1, 6) - 1)
    return whole / 10 ** draw.choice((0, 0, 1, 2))


FORMS: dict[str, Callable[["Locale", "Locale", random.Random], Pair]] = {
    "dates": _date,
    "numbers": _number,
    "currencies": _currency,
    "units": _unit,
    "names": _name,
}
