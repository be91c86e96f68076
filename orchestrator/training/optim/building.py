"""From settings to an optimizer over a model's parameters."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from orchestrator.config import OptimConfig
from orchestrator.config.optim import OPTIMIZERS
from orchestrator.training.optim.elementwise import Adagrad, Lion
from orchestrator.training.optim.muon import Muon
from orchestrator.training.optim.uncompiled import leave_the_compiler_out

L1 = "l1"
"""In a parameter group: this times the sign of each weight is added to the gradient."""
STATE_KEYS = "state_keys"
"""In a parameter group: what the optimizer keeps of each of its parameters, each as large as the
parameter itself."""

Groups = list[dict[str, Any]]
Builder = Callable[[Groups, Any], torch.optim.Optimizer]

BUILDERS: dict[str, Builder] = {
    "adamw": lambda groups, own: torch.optim.AdamW(groups, **_adam(own), fused=True),
    "adam": lambda groups, own: torch.optim.Adam(groups, **_adam(own), fused=True),
    "sgd": lambda groups, own: torch.optim.SGD(
        groups, lr=0.0, momentum=own.momentum, nesterov=own.nesterov
    ),
    # Not torch's: DeepSpeed would build it anew over one group, with one weight decay for all.
    "adagrad": lambda groups, own: Adagrad(groups, eps=own.epsilon),
    "rmsprop": lambda groups, own: torch.optim.RMSprop(
        groups, lr=0.0, alpha=own.beta2, eps=own.epsilon, momentum=own.momentum
    ),
    "lion": lambda groups, own: Lion(groups, betas=(own.beta1, own.beta2)),
    "muon": lambda groups, own: Muon(
        groups, momentum=own.momentum, nesterov=own.nesterov, **_adam(own)
    ),
}
"""By name in the config; each takes parameter groups and an OptimConfig, which has a value for
every setting that the optimizer has."""


def build(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimizer over groups of a model's parameters: matrices are decayed, vectors are not.

    The learning rate is 0 until it is set, before each step; see `learning_rate`.
    """
    leave_the_compiler_out()
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if dimensions(p) >= 2]
    vectors = [p for p in trained if dimensions(p) < 2]
    decayed: dict[str, Any] = {"weight_decay": config.weight_decay, STATE_KEYS: config.state}
    decayed |= {L1: config.l1}
    if config.name == "muon":
        tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
        adamw: dict[str, Any] = {"orthogonal": False, STATE_KEYS: OPTIMIZERS["adamw"].state}
        groups = [
            {**decayed, "params": [p for p in matrices if p not in tables], "orthogonal": True},
            {**decayed, **adamw, "params": [p for p in matrices if p in tables]},
            {**adamw, "weight_decay": 0.0, L1: 0.0, "params": vectors},
        ]
    else:
        groups = [
            {**decayed, "params": matrices},
            {**decayed, "weight_decay": 0.0, L1: 0.0, "params": vectors},
        ]
    optimizer = BUILDERS[config.name]([group for group in groups if group["params"]], config)
    if config.l1:
        optimizer.register_step_pre_hook(_add_signs)
    return optimizer


@torch.no_grad()
def _add_signs(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Add l1 times the sign of each weight to its gradient, before a step.

    The optimizer's own parameters count, which under ZeRO are flat parts of the fp32 weights.
    """
    for group in optimizer.param_groups:
        for weight in group["params"] if group.get(L1) else ():
            if weight.grad is not None:
                weight.grad.add_(weight.sign(), alpha=group[L1])


def dimensions(parameter: nn.Parameter) -> int:
    """Of the whole parameter, also where ZeRO 3 has left a flat shard of it."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _adam(own: Any) -> dict[str, Any]:
    return {"lr": 0.0, "betas": (own.beta1, own.beta2), "eps": own.epsilon}
