"""From records to published shards, in units of work that may be killed at any time."""

from data.preparation.dataset import Dataset, Prepared, Published, open_published
from data.preparation.preparing import find_prepared, prepare
from data.preparation.running import inline

__all__ = [
    "Dataset",
    "Prepared",
    "Published",
    "find_prepared",
    "inline",
    "open_published",
    "prepare",
]
