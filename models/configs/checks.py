"""Checks of single values; each raises ValueError with the setting, its value and what would do."""

import math
from collections.abc import Collection
from difflib import get_close_matches

MOST = 2**31 - 1
MOST_LAYERS = 10_000
"""Ten times the deepest Transformer known (Wang et al. 2022, arXiv:2203.00555). A config may come
from a file of others, and building layers takes time before anything can be compared."""


def check_size(name: str, value: object, most: int = MOST) -> None:
    """Raise unless `value` counts something; a bool does not, though Python has it as an int."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"model.{name}={value!r} must be a whole number of at least 1")
    if value > most:
        given = value if value.bit_length() < 64 else f"a number of {value.bit_length():,} bits"
        raise ValueError(f"model.{name}={given} must be at most {most:,}")


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return the end of a message: the known word that looks most like this one, if any does.

    Its like for settings of data is in data/messages.py: neither package knows the other.
    """
    near = get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of `choices`, with the one it looks like."""
    if value not in choices:
        hint = did_you_mean(str(value), choices)
        raise ValueError(f"model.{name}={value!r} must be one of {', '.join(choices)}{hint}")


def check_switch(name: str, value: object) -> None:
    """Raise unless `value` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"model.{name}={value!r} must be true or false")


def check_positive(name: str, value: object) -> None:
    """Raise unless `value` is a number above 0 and finite."""
    if not 0 < _number(name, value) < math.inf:
        raise ValueError(f"model.{name}={value} must be above 0 and finite")


def check_probability(name: str, value: object) -> None:
    """Raise unless `value` is a probability that leaves something: at least 0 and below 1."""
    if not 0 <= _number(name, value) < 1:
        raise ValueError(f"model.{name}={value} must be at least 0 and below 1")


def _number(name: str, value: object) -> float:
    """Return `value`, or raise where it is not a number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"model.{name}={value!r} must be a number")
    return value
