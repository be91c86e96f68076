"""The state of an engine, put together from the slices of all ranks, for tests."""

import math
from dataclasses import dataclass, field

import torch

from orchestrator.training import distributed
from orchestrator.training.state import WEIGHT


@dataclass
class Memory:
    """A StateReader of whole tensors in memory, which counts the elements that are read."""

    tensors: dict[str, dict[str, torch.Tensor]]
    counts: dict[str, torch.Tensor] = field(default_factory=dict)
    elements_read: int = 0

    def names(self):
        return iter(self.tensors)

    def shape(self, name):
        return tuple(self.tensors[name][WEIGHT].shape)

    def keys(self, name):
        return frozenset(self.tensors[name])

    def read(self, name, key, start, stop):
        self.elements_read += stop - start
        return self.tensors[name][key].view(-1)[start:stop].clone()

    @property
    def elements(self):
        return sum(t.numel() for keys in self.tensors.values() for t in keys.values())


def gathered(trainer):
    """The slices of all ranks put together, and how often each element came."""
    own = [
        (s.name, s.shape, s.start, {key: t.clone() for key, t in s.tensors.items()})
        for s in trainer.state()
    ]
    saved = Memory({})
    for slices in distributed.gather_objects(own):
        for name, shape, start, tensors in slices:
            whole = saved.tensors.setdefault(name, {key: torch.zeros(shape) for key in tensors})
            counts = saved.counts.setdefault(name, torch.zeros(math.prod(shape)))
            counts[start : start + len(tensors[WEIGHT])] += 1
            for key, tensor in tensors.items():
                assert tensor.dtype == torch.float32
                whole[key].view(-1)[start : start + len(tensor)] = tensor
    return saved
