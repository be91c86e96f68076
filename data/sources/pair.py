"""A text in two languages."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Pair:
    """A text in two languages."""

    source: str
    target: str
    kind: str = ""
    """What it is about, for counts by kind."""
    key: str | None = None
    """What it says: pairs of one key belong to one split. None: it is always trained on."""
