"""Turning a whole parameter into ZeRO 3's, of which a rank keeps its shard alone, and back."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.training import distributed


class Sharding:
    """Shards the parameters of one model, one after another, into one block of memory.

    DeepSpeed gives each shard memory of its own, beside that of the whole parameter; once that is
    free, shards lie scattered among holes, which took as much again of the memory of a process.
    """

    def __init__(
        self, deepspeed: Any, config: dict[str, Any], model: nn.Module, drawn: bool
    ) -> None:
        """Start without memory.

        Args:
            deepspeed: the package.
            config: DeepSpeed's.
            model: on the meta device.
            drawn: whether parameters come with values. They are rank 0's then on all ranks: other
                processors may round what they draw otherwise.
        """
        self._init = deepspeed.zero.Init(config_dict_or_path=config)
        self._drawn = drawn
        ranks = distributed.world_size()
        self._elements = sum(-(-p.numel() // ranks) for p in model.parameters())
        self._block: Tensor | None = None
        self._used = 0

    def __call__(self, parameter: Any) -> None:
        """Shard a parameter that is whole on every rank. Every rank calls it."""
        if self._drawn:
            self._init._zero_init_param(parameter)
        else:
            self._init._convert_to_deepspeed_param(parameter)
            parameter.partition()
        shard = parameter.ds_tensor
        if self._block is None:
            self._block = torch.empty(self._elements, dtype=shard.dtype, device=shard.device)
        place = self._block[self._used : self._used + shard.numel()]
        self._used += shard.numel()
        shard.data = place.copy_(shard)


def whole_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter by its name, whole while it is looked at. Every rank calls it, to the end."""
    for name, parameter in model.named_parameters():
        if not hasattr(parameter, "ds_shape"):
            yield name, parameter.detach()
            continue
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.detach()
