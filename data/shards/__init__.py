"""The format of stored tokens: written, published, opened, and verified as it is read."""

from data.shards.blocks import BLOCK_BYTES, BadBlock
from data.shards.manifest import FORMAT_VERSION, Manifest, ShardEntry, write_manifest
from data.shards.reader import CACHE_BLOCKS
from data.shards.shard_set import ShardSet
from data.shards.writer import SHARD_TOKENS, Tokenized, write_shard

__all__ = [
    "BLOCK_BYTES",
    "CACHE_BLOCKS",
    "FORMAT_VERSION",
    "SHARD_TOKENS",
    "BadBlock",
    "Manifest",
    "ShardEntry",
    "ShardSet",
    "Tokenized",
    "write_manifest",
    "write_shard",
]
