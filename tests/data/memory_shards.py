"""A shard set without files, for tests of what stands on top of one."""

from types import SimpleNamespace

import numpy as np

END = 0


class MemoryShards:
    """Documents of these lengths. Every token but end of text is different."""

    dtype = np.dtype(np.uint16)

    def __init__(self, lengths):
        self.offsets = np.cumsum([0, *lengths], dtype=np.int64)
        self.tokens = int(self.offsets[-1])
        self.ids = np.arange(1, self.tokens + 1)
        self.ids[self.offsets[1:] - 1] = END
        self.fingerprint = f"lengths {list(lengths)}"
        self.end_of_text = END
        self.manifest = SimpleNamespace(name="train")

    def extent(self, document):
        return tuple(self.offsets[document : document + 2].tolist())

    def read(self, start, stop):
        assert 0 <= start <= stop <= self.tokens
        return self.ids[start:stop]

    def read_many(self, starts, length, out=None):
        assert ((starts >= 0) & (starts + length <= self.tokens)).all()
        return np.take(self.ids, starts[:, None] + np.arange(length), out=out)

    def document_at(self, positions):
        documents = np.searchsorted(self.offsets, positions, side="right") - 1
        return documents, positions - self.offsets[documents]
