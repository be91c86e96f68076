"""A shard set of numbered tokens on the disk, for tests of what reads one."""

import hashlib

import numpy as np

from data.shards import ShardSet, Tokenized
from tests.data.writing import write_shards

END = 0


def shard_set(folder, tokens, every=37, shard_tokens=300, name="train"):
    """A split whose tokens are 1, 2, 3 ... with an end of text here and there."""
    ids = np.arange(1, tokens + 1)
    ids[9::every] = END
    ids[-1] = END
    ends = np.flatnonzero(ids == END) + 1
    documents = [
        Tokenized(own, hashlib.blake2b(own.tobytes(), digest_size=16).digest(), f"{name}:{i}", 1)
        for i, own in enumerate(np.split(ids, ends[:-1]))
    ]
    write_shards(
        folder,
        documents,
        name=name,
        records="text",
        max_id=tokens,
        end_of_text=END,
        tokenizer="t",
        settings={},
        shard_tokens=shard_tokens,
    )
    return ShardSet.open(folder)
