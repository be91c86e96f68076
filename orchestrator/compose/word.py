"""A word of the command line that sets something, as it was read (grammar.py)."""

from dataclasses import dataclass
from typing import Any


class Spelled(str):
    """A value that was typed without quotes: its characters, and what YAML would take it for."""

    value: int | float | bool | str

    def __new__(cls, text: str, value: int | float | bool | str) -> "Spelled":
        """Keep both."""
        new = super().__new__(cls, text)
        new.value = value
        return new


@dataclass(frozen=True)
class Word:
    """An override with one value."""

    typed: str
    """As the user typed it; in a sweep, as for this job alone."""
    sign: str
    """"", +, ++ or ~."""
    name: str
    """Setting, or group with an optional @package."""
    value: Any
    """None, str, Spelled, or lists and dicts of these; after ~ None."""
