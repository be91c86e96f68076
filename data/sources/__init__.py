"""Where records come from: files, URLs, the hub, and the contract they are checked against."""

from data.sources.reading import (
    is_local,
    outside_state,
    passed_over,
    read_records,
    schema_changes,
    tail_of,
    units_of,
)

__all__ = [
    "is_local",
    "outside_state",
    "passed_over",
    "read_records",
    "schema_changes",
    "tail_of",
    "units_of",
]
