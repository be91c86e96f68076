"""The optimizer and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.config.checks import check_at_least, check_choice
from orchestrator.config.engine import EngineConfig

SCHEDULES = ("cosine", "wsd", "constant")


@dataclass(frozen=True)
class Optimizer:
    """What a choice of `optim.name` has."""

    defaults: Mapping[str, float | bool]
    """Its settings among those of OptimConfig that not every optimizer has, and their values."""
    state: tuple[str, ...]
    """What it keeps for each number of the model, by torch's names; fp32."""
    elementwise: bool = True
    """Whether it treats each number alone, so that ZeRO may cut the model anywhere."""


_ADAM = ("exp_avg", "exp_avg_sq")

OPTIMIZERS: dict[str, Optimizer] = {
    "adamw": Optimizer(
        {
            "learning_rate": 3e-3,
            "beta1": 0.9,
            "beta2": 0.95,
            "epsilon": 1e-8,
            "weight_decay": 0.1,
        },
        _ADAM,
    ),
    "adam": Optimizer(
        {
            "learning_rate": 1e-3,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
        },
        _ADAM,
    ),
    "sgd": Optimizer(
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4},
        ("momentum_buffer",),
    ),
    "adagrad": Optimizer({"learning_rate": 1e-2, "epsilon": 1e-10, "weight_decay": 0.0}, ("sum",)),
    "rmsprop": Optimizer(
        {
            "learning_rate": 1e-3,
            "beta2": 0.99,
            "epsilon": 1e-8,
            "momentum": 0.0,
            "weight_decay": 0.0,
        },
        ("square_avg", "momentum_buffer"),
    ),
    "lion": Optimizer(
        {"learning_rate": 3e-4, "beta1": 0.9, "beta2": 0.99, "weight_decay": 1.0}, ("exp_avg",)
    ),
    "muon": Optimizer(
        {
            "learning_rate": 3e-3,
            "momentum": 0.95,
            "nesterov": True,
            "beta1": 0.9,
            "beta2": 0.95,
            "epsilon": 1e-8,
            "weight_decay": 0.1,
        },
        ("momentum_buffer",),
        elementwise=False,
    ),
}
OWN_SETTINGS = tuple(dict.fromkeys(key for o in OPTIMIZERS.values() for key in o.defaults))


@dataclass
class OptimConfig:
    """The optimizer and its learning-rate schedule.

    A setting that is left open, None, gets the optimizer's own default (OPTIMIZERS); one that the
    optimizer does not have stays None, and is refused when set.
    """

    name: str = "adamw"
    """adamw (Loshchilov & Hutter 2019), adam (Kingma & Ba 2015), sgd, adagrad (Duchi et al. 2011),
    rmsprop (Hinton 2012), lion (Chen et al. 2023), or muon (Jordan et al. 2024) for the matrices
    inside the network with adamw for embeddings and vectors."""
    learning_rate: float | None = None
    """Peak learning rate."""
    beta1: float | None = None
    """Decay per step of the mean of gradients (adamw, adam, muon); weight of the old mean in the
    update (lion)."""
    beta2: float | None = None
    """Decay per step of the mean of squared gradients (adamw, adam, rmsprop, muon); of gradients
    (lion)."""
    momentum: float | None = None
    """Decay per step of the sum of updates (sgd, rmsprop) or of the mean of gradients (muon)."""
    nesterov: bool | None = None
    """sgd, muon: look one step of momentum ahead."""
    epsilon: float | None = None
    """Added to the denominator (adamw, adam, adagrad, rmsprop, muon)."""
    weight_decay: float | None = None
    """Of matrices; vectors (norms, biases) are not decayed. adamw, lion and muon shrink weights by
    this times the learning rate in each step; the others add this times the weight to the
    gradient."""
    l1: float = 0.0
    """Of matrices: this times the sign of each weight is added to the gradient, whatever the
    optimizer, which drives weights that help little to zero (Tibshirani 1996)."""
    gradient_clip: float | None = 1.0
    """Largest global norm of the gradient. None: no clipping."""
    schedule: str = "cosine"
    """cosine, wsd (warm-up, stable, decay) or constant; all after a linear warm-up."""
    warmup_steps: int = 40
    """Steps in which the learning rate rises to its peak."""
    decay_fraction: float = 0.2
    """wsd: the part of all steps over which the rate falls at the end."""
    final_fraction: float = 0.1
    """Learning rate of the last step, as a part of the peak."""

    def __post_init__(self) -> None:
        """Fill in the optimizer's own defaults; check ranges and choices."""
        check_choice("optim.name", self.name, OPTIMIZERS)
        self._fill_in(OPTIMIZERS[self.name].defaults)
        check_choice("optim.schedule", self.schedule, SCHEDULES)
        check_at_least("optim.warmup_steps", self.warmup_steps, 0)
        check_at_least("optim.weight_decay", self.weight_decay or 0.0, 0)
        check_at_least("optim.l1", self.l1, 0)
        for name in ("beta1", "beta2", "momentum"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"optim.{name}={value} must lie in [0, 1)")
        for name in ("decay_fraction", "final_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"optim.{name}={getattr(self, name)} must lie in [0, 1]")
        for name in ("learning_rate", "epsilon", "gradient_clip"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"optim.{name}={value} must be greater than 0 and finite")
        if self.name == "sgd" and self.nesterov and not self.momentum:
            raise ValueError(
                "optim.nesterov=true looks ahead along the momentum, but optim.momentum=0; "
                "try optim.momentum=0.9"
            )

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        found = {}
        if self.schedule != "wsd":
            found["decay_fraction"] = "it is for optim.schedule=wsd (optim=adamw_wsd)"
        if self.schedule == "constant":
            found["final_fraction"] = "optim.schedule=constant stays at its peak; try cosine or wsd"
        return found

    @property
    def peak(self) -> float:
        """The peak learning rate."""
        assert self.learning_rate is not None
        return self.learning_rate

    @property
    def state(self) -> tuple[str, ...]:
        """What is kept for each number of the model (muon: of its matrices), by torch's names."""
        keys = OPTIMIZERS[self.name].state
        unused = "momentum_buffer" if self.momentum == 0 and self.name != "muon" else None
        return tuple(key for key in keys if key != unused)

    @property
    def kept_at_most(self) -> int:
        """Numbers that are kept for each number of the model; muon keeps fewer of its matrices."""
        return len(OPTIMIZERS["adamw"].state if self.name == "muon" else self.state)

    def check_engine(self, engine: EngineConfig) -> None:
        """Raise ValueError if the engine would cut what the optimizer needs whole."""
        stage = engine.sharding_stage
        if stage and not OPTIMIZERS[self.name].elementwise:
            raise ValueError(
                f"optim.name={self.name} needs whole matrices, and engine.zero_stage={stage} cuts "
                "them over workers; try engine=zero0, or engine=torch with one worker"
            )

    def _fill_in(self, defaults: Mapping[str, float | bool]) -> None:
        for setting in OWN_SETTINGS:
            value = getattr(self, setting)
            if setting in defaults:
                setattr(self, setting, defaults[setting] if value is None else value)
            elif value is not None:
                has = ", ".join(f"optim.{key}" for key in defaults)
                raise ValueError(
                    f"optim.{setting}={value}: optim.name={self.name} has no such setting, only "
                    f"{has}; leave it out"
                )
