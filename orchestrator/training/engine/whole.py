"""Optimizer state, and the state of models that every rank holds whole.

Of N ranks that hold the same, rank r answers for the r-th of N shares of each flattened tensor:
that is what it saves, and what it reads of a checkpoint before the ranks exchange their shares.
"""

from collections.abc import Iterable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from orchestrator.training import distributed
from orchestrator.training.optim import STATE_KEYS
from orchestrator.training.state import WEIGHT, Slice, StateReader


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of each parameter by name; of the whole one where ZeRO 3 has sharded it."""
    return {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in model.named_parameters()
    }


def state_keys(
    model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, frozenset[str]]:
    """What the optimizer keeps of each parameter that it trains, by name."""
    if optimizer is None:
        return {}
    groups = optimizer.param_groups
    keys = {id(p): frozenset(group[STATE_KEYS]) for group in groups for p in group["params"]}
    return {name: keys[id(p)] for name, p in model.named_parameters() if id(p) in keys}


def create_state(
    optimizer: torch.optim.Optimizer, tensor: Tensor, keys: Iterable[str], step: int
) -> None:
    """Make the state that the optimizer would make in its first step, as after `step` steps.

    The keys are filled later; they are zero here.
    """
    device = tensor.device if optimizer.defaults.get("fused") else torch.device("cpu")
    optimizer.state[tensor] = {
        "step": torch.tensor(float(step), device=device),
        **{key: torch.zeros_like(tensor, requires_grad=False) for key in keys},
    }


def views(
    named: Iterable[tuple[str, Tensor]], optimizer: torch.optim.Optimizer | None
) -> Iterator[Slice]:
    """Each named parameter as one slice, flat views of the live weight and optimizer state."""
    for name, parameter in named:
        tensors = {WEIGHT: parameter.detach().flatten()}
        if optimizer is not None:
            kept = optimizer.state.get(parameter, {})
            tensors |= {
                key: value.flatten()
                for key, value in kept.items()
                if torch.is_tensor(value) and value.shape == parameter.shape and key != "step"
            }
        yield Slice(name, tuple(parameter.shape), 0, tensors)


def own_share(whole: Slice) -> Slice:
    """This rank's share of a whole parameter, in fp32."""
    start, stop = _bounds(whole.length, distributed.rank())
    tensors = {key: value[start:stop].float() for key, value in whole.tensors.items()}
    return Slice(whole.name, whole.shape, start, tensors)


@torch.no_grad()
def fill_together(slices: Iterable[Slice], reader: StateReader) -> None:
    """Fill whole parameters: each rank reads its share, then all exchange them."""
    ranks = distributed.world_size()
    for whole in slices:
        start, stop = _bounds(whole.length, distributed.rank())
        for key, tensor in whole.tensors.items():
            share = reader.read(whole.name, key, start, stop).to(tensor.device)
            if ranks == 1:
                tensor.copy_(share)
                continue
            size = -(-whole.length // ranks)
            padded = torch.nn.functional.pad(share, (0, size - len(share)))
            gathered = padded.new_empty(size * ranks)
            dist.all_gather_into_tensor(gathered, padded)
            tensor.copy_(gathered[: whole.length])


def _bounds(length: int, rank: int) -> tuple[int, int]:
    """Where the share of a rank begins and ends; all but the last are of one size."""
    size = -(-length // distributed.world_size())
    return min(length, rank * size), min(length, (rank + 1) * size)
