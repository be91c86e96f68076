"""Who attends to whom: the weights of every attention of a forward pass, when they are asked for.

The pass itself stays as it is: what goes into each attention is looked at before it begins, and
its weights are computed a second time.

B batch, H heads, T time (tokens), S tokens that are attended to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

Maps = dict[str, Tensor]


@contextmanager
def recorded(model: nn.Module) -> Iterator[Maps]:
    """The attention weights of the last forward pass inside, by the name of the module.

    Each is fp32 (B, H, T, S), without dropout; every row of S sums to 1. It works for models whose
    attentions have a method `weights` that takes what their `forward` takes.
    """
    found: Maps = {}

    def look(name: str) -> Any:
        def before(module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            found[name] = module.weights(*inputs, **named).detach()

        return before

    hooks = [
        module.register_forward_pre_hook(look(name), with_kwargs=True)
        for name, module in model.named_modules()
        if hasattr(module, "weights") and callable(module.weights)
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
