"""Where records come from: files, URLs, the hub, and the contract they are checked against."""

from data.sources.reading import (
    outside_state,
    passed_over,
    read_records,
    schema_changes,
    tail_of,
    units_of,
)

__all__ = [
    "outside_state",
    "passed_over",
    "read_records",
    "schema_changes",
    "tail_of",
    "units_of",
]
