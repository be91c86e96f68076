"""torch's optimizers without its compiler, which they import at the first call: 1 s of a start."""

import inspect
from functools import cache

import torch
from torch.optim import Adam, AdamW, Optimizer, RMSprop

TAKEN_OUT = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Methods that torch marks as not to be compiled; the mark is what imports the compiler."""


@cache
def leave_the_compiler_out() -> None:
    """Have torch's optimizers call their methods as they are written.

    torch.compile is asked to leave some methods alone, and to break its graph around `step`. Nobody
    compiles an optimizer here (`engine.compile` is about the model), so nothing needs to be asked.
    """
    for name in TAKEN_OUT:
        method = inspect.unwrap(getattr(Optimizer, name))
        vars(method).setdefault("__dynamo_disable", method)
    for kind in (Adam, AdamW, RMSprop, torch.optim.SGD):
        kind.step = torch.no_grad()(inspect.unwrap(kind.step))  # type: ignore[method-assign]
