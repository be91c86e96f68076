"""A model made module by module, so that no process needs to hold the whole of it.

The model is built on the meta device, where it has shapes and no memory. Then each module that
has parameters of its own gets memory on the device and draws its initial values, in the order in
which the modules were made. An engine may cast or shard them before the next module is made.
Every engine makes its model this way, so they all start from the same values.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import models
from models.configs import ModelConfig

Make = ModelConfig | Callable[[], nn.Module]
"""What a model is made from: its config, or a function that builds it."""


def on_meta(make: Make) -> nn.Module:
    """The model without memory: shapes alone."""
    with torch.device("meta"):
        return models.build(make) if isinstance(make, ModelConfig) else make()


def materialise(
    model: nn.Module,
    device: torch.device,
    *,
    seed: int,
    draw: bool = True,
    made: Callable[[nn.Parameter], None] = lambda parameter: None,
) -> None:
    """Give the modules of a model on the meta device memory on `device`, one after another.

    A parameter that several modules share is made once, with the first of them. The random state
    of the process is left as it was.

    Args:
        model: on the meta device.
        device: of the new parameters and buffers.
        seed: of the values drawn.
        draw: whether to draw values; otherwise those of parameters are undefined, for the caller
            to fill.
        made: gets each parameter when its module is done; it may cast it or free its memory.

    Raises:
        TypeError: a module with parameters or buffers of its own has no `reset_parameters`.
    """
    copies: dict[int, Tensor] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for module in model.modules():
            old = {**module._parameters, **module._buffers}
            new = []
            for name, tensor in old.items():
                if tensor is None:
                    continue
                if id(tensor) not in copies:
                    copies[id(tensor)] = _empty(tensor, device)
                    new.append(copies[id(tensor)])
                setattr(module, name, copies[id(tensor)])
            parameters = [tensor for tensor in new if isinstance(tensor, nn.Parameter)]
            if new and (draw or len(parameters) < len(new)):
                _reset(module)
            for parameter in parameters:
                made(parameter)


def _empty(tensor: Tensor, device: torch.device) -> Tensor:
    # Not empty_like: of a meta tensor it is Python that imports sympy, 0.5 s of every start.
    size, stride = tensor.size(), tensor.stride()
    empty = torch.empty_strided(size, stride, dtype=tensor.dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _reset(module: nn.Module) -> None:
    reset = getattr(module, "reset_parameters", None)
    if reset is None:
        raise TypeError(
            f"{type(module).__name__} has parameters or buffers of its own and no method "
            "reset_parameters(), which sets their initial values; move what its constructor "
            "draws there"
        )
    reset()
