"""Checks that every section uses; each message says what would do."""

import difflib
from collections.abc import Collection


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`; the message offers the nearest."""
    if value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f"did you mean {near[0]}?" if near else "choose one of them"
        raise ValueError(f"{setting}={value} is not one of {', '.join(choices)}; {hint}")


def check_at_least(setting: str, value: float, least: float) -> None:
    """Raise ValueError unless `value >= least`."""
    if not value >= least:  # also refuses nan
        raise ValueError(f"{setting}={value} must be at least {least}; try {setting}={least}")


def nearest_multiples(value: int, factor: int) -> str:
    """The multiples of `factor` around `value`, as text for an error: "24, 32"."""
    below = value // factor * factor
    return ", ".join(str(n) for n in (below, below + factor) if n > 0)
