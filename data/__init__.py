"""Text to batches: sources, tokenizer, shards, sample order, loader. Knows no torch and no ray."""

from data.config import DataConfig
from data.files import DataError, cache_root
from data.loader import Batch, Loader, evaluation_rows
from data.prepare import Prepared, prepare
from data.shards import ShardSet
from data.stream import Stream
from data.tokenizer import Tokenizer, TokenizerConfig, vocab_size

__all__ = [
    "Batch",
    "DataConfig",
    "DataError",
    "Loader",
    "Prepared",
    "ShardSet",
    "Stream",
    "Tokenizer",
    "TokenizerConfig",
    "cache_root",
    "evaluation_rows",
    "prepare",
    "vocab_size",
]
