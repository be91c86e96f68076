"""From raw files to batches, a pure function of content, seed and schedule. No torch, no ray.

sources/      files, URLs, hub -> records, the contract checked while reading
filters/      an ordered list of what is left out, with a report
preparation/  records -> tokenized, published shards, in units that may be killed at any time
shards/       the format; blocks are compared with their hashes as they are read
drift/        sketches of shards and tables, and the gate that compares them
packing/      documents -> rows of a fixed length
order/        position -> dataset, epoch, row; and the state that proves what was trained on
feed/         the three together: batches for each rank, and their account
ask/          which documents, when; about how much; what reading costs; how two datasets differ

Beside them: the settings (config), what a record is and must satisfy (records, contract), the
tokenizer and chat templates (chat), and what all of them write to disks and say to people (files,
messages).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.config import DataConfig
    from data.feed.loader import Batch, Loader, evaluation_rows
    from data.feed.stream import Stream
    from data.files import DamagedData, DataError, cache_root
    from data.preparation.dataset import Prepared, Published, open_published
    from data.preparation.preparing import find_prepared, prepare
    from data.shards import ShardSet
    from data.tokenizer import Tokenizer, TokenizerConfig, vocab_size

__all__ = [
    "Batch",
    "DamagedData",
    "DataConfig",
    "DataError",
    "Loader",
    "Prepared",
    "Published",
    "ShardSet",
    "Stream",
    "Tokenizer",
    "TokenizerConfig",
    "cache_root",
    "evaluation_rows",
    "find_prepared",
    "open_published",
    "prepare",
    "vocab_size",
]

HOMES = {
    "data.config": ("DataConfig",),
    "data.feed.loader": ("Batch", "Loader", "evaluation_rows"),
    "data.feed.stream": ("Stream",),
    "data.files": ("DamagedData", "DataError", "cache_root"),
    "data.preparation.dataset": ("Prepared", "Published", "open_published"),
    "data.preparation.preparing": ("find_prepared", "prepare"),
    "data.shards": ("ShardSet",),
    "data.tokenizer": ("Tokenizer", "TokenizerConfig", "vocab_size"),
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, then: all of it takes a verb that needs little 0.2 s."""
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
