"""A moving average of the weights of a model in training."""

from collections.abc import Iterator

import torch

from orchestrator.training.checkpoint import SavedRole
from orchestrator.training.roles import Role
from orchestrator.training.state import WEIGHT, Slice, StateReader

EMA = "ema"
"""The role as which a checkpoint keeps it."""


class MovingAverage:
    """Exponential, of what this rank answers for of the fp32 weights that are saved.

    After n steps it is d^n w_0 + (1 - d) x the sum of d^(n - i) w_i, d being the decay. Every rank
    keeps its own share, under every ZeRO stage, and talks to no other.
    """

    name = EMA

    def __init__(self, role: Role, decay: float, resumed: StateReader | None = None) -> None:
        """Begin with the weights as they are, or go on.

        Args:
            role: the model.
            decay: what the average keeps of itself in a step; above 0, below 1.
            resumed: as it was saved.
        """
        self._role, self._decay = role, decay
        self._kept: dict[str, Slice] = {}
        for own in role.saved.state():
            weight = own.tensors[WEIGHT]
            average = weight.clone()
            if resumed is not None:
                average.copy_(resumed.read(own.name, WEIGHT, own.start, own.start + own.length))
            self._kept[own.name] = Slice(own.name, own.shape, own.start, {WEIGHT: average})

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as an optimizer step has left them."""
        for own in self._role.saved.state():
            self._kept[own.name].tensors[WEIGHT].lerp_(own.tensors[WEIGHT], 1 - self._decay)

    @property
    def saved(self) -> SavedRole:
        """What a checkpoint keeps of it."""
        return SavedRole(self._slices, self._role.config.model, None, self._role.base)

    def _slices(self) -> Iterator[Slice]:
        return iter(self._kept.values())
