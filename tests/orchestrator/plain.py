"""The state of a plain PyTorch model cut into slices as ranks would hold it, for tests."""

from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from orchestrator.training.checkpoint import SavedRole
from orchestrator.training.state import WEIGHT, Slice

KEYS = ("exp_avg", "exp_avg_sq")
STRETCHES = 3
"""That a rank holds of each parameter."""


class Plain:
    """A model that has made a step of AdamW; the same on every rank."""

    def __init__(self, width=24, seed=0, model=None):
        torch.manual_seed(seed)
        self.model = model or nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 7, bias=False)
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        for parameter in self.model.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()

    def whole(self, name, key):
        """The flattened tensor that any reader must give back."""
        parameter = self.model.get_parameter(name)
        found = parameter if key == WEIGHT else self.optimizer.state[parameter][key]
        return found.detach().flatten()

    def names(self):
        return [name for name, _ in self.model.named_parameters()]

    def state(self, rank=0, world_size=1):
        """Every rank has several stretches of every parameter."""
        for name, parameter in self.model.named_parameters():
            edges = torch.linspace(0, parameter.numel(), STRETCHES * world_size + 1).long().tolist()
            for start, stop in list(pairwise(edges))[rank::world_size]:
                tensors = {key: self.whole(name, key)[start:stop] for key in (WEIGHT, *KEYS)}
                yield Slice(name, tuple(parameter.shape), start, tensors)

    @contextmanager
    def changed(self):
        """In the block, all weights and moments are other ones, in the same memory."""
        held = [t for own in self.state() for t in own.tensors.values()]
        before = [tensor.clone() for tensor in held]
        for tensor in held:
            tensor.fill_(7.0)
        yield
        for tensor, value in zip(held, before, strict=True):
            tensor.copy_(value)

    def role(self, rank=0, world_size=1, config=None):
        return SavedRole(lambda: self.state(rank, world_size), config, "adamw")


def retain(retention, written):
    """Have everything deleted that is not to stay, now."""
    retention.after(written)
    retention.wait()


def bytes_read():
    """By this process so far, whether from the disk or from the page cache."""
    return int(Path("/proc/self/io").read_text().split()[1])


def check_equal(reader, plain):
    """Whether a reader gives what the model holds."""
    assert sorted(reader.names()) == sorted(plain.names())
    for name in plain.names():
        assert reader.shape(name) == tuple(plain.model.get_parameter(name).shape)
        assert reader.keys(name) == {WEIGHT, *KEYS}
        for key in reader.keys(name):
            whole = plain.whole(name, key)
            got = reader.read(name, key, 0, len(whole))
            assert got.dtype == torch.float32
            assert torch.equal(got, whole), (name, key)
