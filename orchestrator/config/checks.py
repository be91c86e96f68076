"""Checks that every section uses; each message says what would do."""

from data.messages import check_choice

__all__ = ["check_at_least", "check_choice", "nearest_multiples"]


def check_at_least(setting: str, value: float, least: float) -> None:
    """Raise ValueError unless `value >= least`."""
    if not value >= least:  # also refuses nan
        raise ValueError(f"{setting}={value} must be at least {least}; try {setting}={least}")


def nearest_multiples(value: int, factor: int) -> str:
    """The multiples of `factor` around `value`, as text for an error: "24, 32"."""
    below = value // factor * factor
    return ", ".join(str(n) for n in (below, below + factor) if n > 0)
