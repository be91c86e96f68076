"""Where DeepSpeed keeps fp32 weights and optimizer state on this rank, at each ZeRO stage.

A layout shows them as slices that are views of the live tensors: reading them saves the state,
writing them loads it. None of this communicates, but for the exchange after loading.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import nn

from orchestrator.training import distributed
from orchestrator.training.engine import whole
from orchestrator.training.optim import STATE_KEYS
from orchestrator.training.state import WEIGHT, Slice, StateReader, fill


class Layout(Protocol):
    """The state of one rank."""

    def slices(self) -> Iterator[Slice]:
        """What this rank answers for."""

    def create_state(self, step: int) -> None:
        """Make the optimizer's state as after `step` steps, to be filled."""

    def load(self, reader: StateReader) -> None:
        """Fill the fp32 weights and what `create_state` has made, then the model's own weights.

        Every rank calls it: a rank's model may hold weights that other ranks have read.
        """


class WholeLayout:
    """ZeRO 0: every rank holds everything; in bf16, an fp32 copy of each weight beside it."""

    def __init__(self, model: nn.Module, optimizer: Any) -> None:
        """Find the fp32 weight of each parameter."""
        self._plain = isinstance(optimizer, torch.optim.Optimizer)
        self._optimizer = optimizer if self._plain else optimizer.optimizer
        masters: dict[int, torch.Tensor] = {}
        if not self._plain:
            groups = zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True)
            for low, high in groups:
                masters |= {id(p): master for p, master in zip(low, high, strict=True)}
            # DeepSpeed has taken a step with gradients of zero to make the state.
            self._optimizer.state.clear()
        self._parameters = dict(model.named_parameters())
        self._masters = {name: masters.get(id(p), p) for name, p in self._parameters.items()}

    def slices(self) -> Iterator[Slice]:
        """This rank's share of each parameter."""
        for each in self._views():
            yield whole.own_share(each)

    def create_state(self, step: int) -> None:
        """Make the optimizer's state."""
        for group in self._optimizer.param_groups:
            for tensor in group["params"]:
                whole.create_state(self._optimizer, tensor, group[STATE_KEYS], step)

    @torch.no_grad()
    def load(self, reader: StateReader) -> None:
        """Exchange what each rank has read."""
        whole.fill_together(self._views(), reader)
        for name, parameter in self._parameters.items():
            if self._masters[name] is not parameter:
                parameter.copy_(self._masters[name])

    def _views(self) -> Iterator[Slice]:
        return whole.views(self._masters.items(), self._optimizer)


class FlatLayout:
    """ZeRO 1 and 2: each group of parameters is one flat tensor, of which ranks hold equal parts.

    A part begins and ends anywhere in a parameter. What is not trained is whole on every rank.
    """

    def __init__(self, model: nn.Module, zero: Any) -> None:
        """Take the optimizer of DeepSpeed."""
        self._zero = zero
        self._trained, self._frozen = _by_training(model)

    def slices(self) -> Iterator[Slice]:
        """The parts of parameters in this rank's part of the groups; its share of the others."""
        yield from self._parts()
        for each in whole.views(self._frozen, None):
            yield whole.own_share(each)

    def _parts(self) -> Iterator[Slice]:
        for name, parameter in self._trained:
            mapping = parameter._hp_mapping
            if mapping is None:  # all of it lies on other ranks
                continue
            flat = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
            place = mapping.get_hp_fragment_address()
            tensors = _stretch(flat, self._zero.optimizer, place.start, place.numel)
            start = mapping.lp_fragment_address.start
            yield Slice(name, tuple(parameter.shape), start, tensors)

    def create_state(self, step: int) -> None:
        """Make the optimizer's state for this rank's part."""
        inner = self._zero.optimizer
        for group in inner.param_groups:
            for flat in group["params"]:
                whole.create_state(inner, flat, group[STATE_KEYS], step)

    def load(self, reader: StateReader) -> None:
        """Fill this rank's part; the model's weights are gathered from all parts."""
        fill(self._parts(), reader)
        with torch.no_grad():
            whole.fill_together(whole.views(self._frozen, None), reader)
        self._zero.update_lp_params()


class ShardedLayout:
    """ZeRO 3: each parameter is cut into equal shards, the last one padded."""

    def __init__(self, model: nn.Module, zero: Any) -> None:
        """Take the optimizer of DeepSpeed."""
        self._zero = zero
        self._trained, frozen = _by_training(model)
        self._frozen = FrozenShardedLayout(frozen, zero.parameter_offload)

    def slices(self) -> Iterator[Slice]:
        """This rank's shard of each parameter, without the padding."""
        yield from self._shards()
        yield from self._frozen.slices()

    def _shards(self) -> Iterator[Slice]:
        for name, parameter in self._trained:
            start, length = _shard(parameter)
            if length:
                flat, offset, _ = self._place(parameter)
                tensors = _stretch(flat, self._zero.optimizer, offset, length)
                yield Slice(name, tuple(parameter.ds_shape), start, tensors)

    def create_state(self, step: int) -> None:
        """Make the optimizer's state for this rank's shards."""
        inner = self._zero.optimizer
        for index, flat in enumerate(self._zero.fp32_partitioned_groups_flat):
            group = inner.param_groups[self._zero.sub_group_to_group_id[index]]
            whole.create_state(inner, flat, group[STATE_KEYS], step)

    @torch.no_grad()
    def load(self, reader: StateReader) -> None:
        """Fill this rank's shards, in fp32 and in the precision of the model."""
        self._frozen.load(reader)  # shards all parameters, of which small ones may be gathered
        fill(self._shards(), reader)
        for _, parameter in self._trained:
            flat, offset, length = self._place(parameter)
            parameter.ds_tensor.copy_(flat[offset : offset + length])

    def _place(self, parameter: Any) -> tuple[Any, int, int]:
        """The flat tensor of a shard, where it begins there, and its length with padding."""
        group, offset, length = self._zero.grad_position[self._zero.get_param_id(parameter)]
        return self._zero.fp32_partitioned_groups_flat[group], offset, length


class FrozenShardedLayout:
    """ZeRO 3, what no optimizer trains: shards in the precision of the model alone."""

    def __init__(self, named: Iterable[tuple[str, Any]], offload: Any) -> None:
        """Take the parameters by name, and what gathers and releases them."""
        self._named, self._offload = list(named), offload

    def slices(self) -> Iterator[Slice]:
        """This rank's shard of each parameter, in fp32."""
        for own in self._views():
            yield Slice(own.name, own.shape, own.start, {WEIGHT: own.tensors[WEIGHT].float()})

    def create_state(self, step: int) -> None:
        """There is none."""

    def load(self, reader: StateReader) -> None:
        """Fill this rank's shards, once all parameters are sharded."""
        self._offload.partition_all_parameters()
        fill(self._views(), reader)

    def _views(self) -> Iterator[Slice]:
        for name, parameter in self._named:
            start, length = _shard(parameter)
            if length:
                tensors = {WEIGHT: parameter.ds_tensor[:length]}
                yield Slice(name, tuple(parameter.ds_shape), start, tensors)


def _by_training(model: nn.Module) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """The parameters that are trained, and those that are not: by name, as DeepSpeed left them."""
    named = list(model.named_parameters())
    return [own for own in named if own[1].requires_grad], [
        own for own in named if not own[1].requires_grad
    ]


def _stretch(
    flat: torch.Tensor, optimizer: torch.optim.Optimizer, start: int, length: int
) -> dict[str, torch.Tensor]:
    """Views of weight and optimizer state of part of a flat tensor."""
    kept = {
        key: value
        for key, value in optimizer.state.get(flat, {}).items()
        if torch.is_tensor(value) and value.shape == flat.shape
    }
    return {key: v[start : start + length] for key, v in {WEIGHT: flat.detach(), **kept}.items()}


def _shard(parameter: Any) -> tuple[int, int]:
    """Where this rank's shard begins in the flattened parameter, and its length unpadded."""
    size = parameter.ds_tensor.ds_numel
    start = distributed.rank() * size
    return start, max(0, min(size, parameter.ds_numel - start))
