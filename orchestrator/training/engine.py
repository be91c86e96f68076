"""Engines: forward, backward and step over plain PyTorch or DeepSpeed ZeRO, and their state.

An engine hides where parameters, gradients and optimizer state live. Its state goes in and out
parameter by parameter as whole fp32 tensors, so a checkpoint does not know which engine, ZeRO
stage or world size wrote it. The only file that imports deepspeed.
"""

import contextlib
import io
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from orchestrator.config import JobConfig
from orchestrator.training import distributed
from orchestrator.training.optim import adamw

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state of a parameter, named as in torch


@dataclass(frozen=True)
class ParameterState:
    """A parameter with its optimizer state, whole and fp32, on whatever device it was found."""

    weight: Tensor
    moments: dict[str, Tensor]


class Engine(Protocol):
    """What the training loop asks of an engine. Every rank calls every method, in one order."""

    device: torch.device
    model: nn.Module

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of tokens (B, T), documents (B, T) kept apart where given."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the step's loss; parts add up over ranks."""

    def step(self, learning_rate: float) -> float:
        """Reduce, clip and apply the gradient; returns its global norm before clipping.

        A norm that is not finite ends the job; plain engines have not applied that gradient.
        """

    def state(self) -> Iterator[tuple[str, ParameterState]]:
        """Name and state of each parameter in a fixed order; the same on every rank."""

    def load_state(self, states: Mapping[str, ParameterState], step: int) -> None:
        """Take over weights and moments of a checkpoint written after `step` steps."""


class TorchEngine:
    """One process, no DeepSpeed: the reference the others are compared with."""

    def __init__(self, model: nn.Module, config: JobConfig, device: torch.device) -> None:
        """Move the model to its device; bf16 runs matrix products under autocast."""
        self.device = device
        self.model = model.to(device)
        self._forward: Any = torch.compile(model) if config.engine.compile else model
        self._bf16 = config.engine.precision == "bf16"
        self._clip = config.optim.gradient_clip
        self._optimizer = adamw(model, config.optim)

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of tokens (B, T), documents (B, T) kept apart where given."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16):
            logits: Tensor = self._forward(tokens, documents=documents)
        return logits

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> float:
        """Clip and apply the gradient; returns its norm before clipping."""
        norm = _clip(self.model, self._clip)
        if not math.isfinite(norm):
            return norm
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> Iterator[tuple[str, ParameterState]]:
        """Name and state of each parameter."""
        for name, parameter in self.model.named_parameters():
            yield name, _plain_state(parameter, self._optimizer)

    def load_state(self, states: Mapping[str, ParameterState], step: int) -> None:
        """Take over weights and moments."""
        for name, parameter in self.model.named_parameters():
            _load_plain_state(parameter, self._optimizer, states[name], step)


class DeepSpeedEngine:
    """ZeRO 0 to 3 over all ranks of the process group."""

    def __init__(self, model: nn.Module, config: JobConfig, device: torch.device) -> None:
        """Wrap the model; every rank must hold the same weights."""
        deepspeed = _import_deepspeed(device)
        self.device = device
        self.model = model
        self._stage = config.engine.zero_stage
        self._clip = config.optim.gradient_clip
        optimizer = adamw(model.to(device), config.optim)
        with _quiet():
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=model, optimizer=optimizer, config=zero_config(config)
            )
            if config.engine.compile:
                self._engine.compile()

    def forward(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Logits (B, T, V) of tokens (B, T), documents (B, T) kept apart where given."""
        logits: Tensor = self._engine(tokens, documents=documents)
        return logits

    def backward(self, loss: Tensor) -> None:
        """Add the gradient; DeepSpeed averages over ranks, so the sum needs the factor W."""
        self._engine.backward(loss * distributed.world_size(), scale_wrt_gas=False)
        # DeepSpeed counts micro-batches: it steps after the last one of the optimizer step.
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def step(self, learning_rate: float) -> float:
        """Reduce, clip and apply the gradient; returns its global norm before clipping."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self._plain:  # DeepSpeed would clip, but not say the norm
            norm = _clip(self.model, self._clip)
            if math.isfinite(norm):
                self._engine.step()
            return norm
        self._engine.step()
        return float(self._engine.get_global_grad_norm())

    def state(self) -> Iterator[tuple[str, ParameterState]]:
        """Name and state of each parameter, gathered one at a time."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        self._link_moments()
        for name, parameter in self.model.named_parameters():
            if self._plain:
                yield name, _plain_state(parameter, self._optimizer)
                continue
            moments = {key: safe_get_full_optimizer_state(parameter, key) for key in MOMENTS}
            yield name, ParameterState(safe_get_full_fp32_param(parameter), moments)

    def load_state(self, states: Mapping[str, ParameterState], step: int) -> None:
        """Take over weights and moments; each rank keeps its partition."""
        if not self._plain:
            self._create_moments(step)
        for name, parameter in self.model.named_parameters():
            if self._plain:
                _load_plain_state(parameter, self._optimizer, states[name], step)
            elif self._stage == 3:
                _load_zero3_state(parameter, states[name])
            else:
                _load_zero_state(parameter, states[name])

    @property
    def _plain(self) -> bool:
        """Whether the optimizer is torch's own over whole parameters (ZeRO 0 in fp32)."""
        return isinstance(self._optimizer, torch.optim.Optimizer)

    def _create_moments(self, step: int) -> None:
        """AdamW makes its state lazily in the first step; make it now, as after `step` steps."""
        zero = self._optimizer
        inner = zero.optimizer
        if self._stage == 3:
            flats = zero.fp32_partitioned_groups_flat
        else:
            flats = [flat for group in inner.param_groups for flat in group["params"]]
        for flat in flats:
            inner.state[flat] = {
                "step": torch.tensor(float(step), device=flat.device),
                **{key: torch.zeros_like(flat) for key in MOMENTS},
            }
        self._link_moments()

    def _link_moments(self) -> None:
        """Let each parameter find its part of the flat moments.

        DeepSpeed 0.19 does it after the first parameter group's first step, when the second
        group has no moments yet, and never again.
        """
        if self._stage != 3 and not self._plain:
            self._optimizer._hp_optimizer_states_linked = False
            self._optimizer._lazy_init_hp_params_optimizer_state()


def build(model: nn.Module, config: JobConfig, device: torch.device) -> Engine:
    """The engine of `config.engine` around a model whose weights are the same on every rank."""
    if config.engine.activation_checkpointing:
        model.activation_checkpointing = True  # type: ignore[assignment]
    kind = TorchEngine if config.engine.name == "torch" else DeepSpeedEngine
    return kind(model, config, device)


def zero_config(config: JobConfig) -> dict[str, Any]:
    """DeepSpeed's own config for this job."""
    engine = config.engine
    plain = engine.zero_stage == 0 and engine.precision == "fp32"  # clipped by DeepSpeedEngine
    zero: dict[str, Any] = {"stage": engine.zero_stage}
    if engine.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if engine.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": config.batch.micro,
        "gradient_accumulation_steps": config.batch.accumulation_steps,
        "gradient_clipping": 0.0 if plain else config.optim.gradient_clip or 0.0,
        "zero_optimization": zero,
        "bf16": {"enabled": engine.precision == "bf16"},
        # torch's own AdamW also under offload: DeepSpeed's needs a C++ compiler at run time.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def _import_deepspeed(device: torch.device) -> Any:
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with _quiet(), _hidden("mlflow"):  # DeepSpeed's autotuner imports it, which takes a second
        import deepspeed
        from deepspeed.ops import __compatible_ops__

        _import_muon_uncompiled()
    # The shared-memory op serves inference alone, and would be compiled before the first step.
    __compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _import_muon_uncompiled() -> None:
    """ZeRO imports Muon whatever the optimizer, and decorates it with torch.compile.

    That imports all of inductor, 2 to 3 seconds of the start; Muon is not used here.
    """
    from deepspeed.runtime import compiler

    decorator = compiler.compile
    compiler.compile = lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = decorator


@contextlib.contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Import as if this module were not installed, unless it is imported already."""
    absent = name not in sys.modules
    if absent:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if absent:
            del sys.modules[name]


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """DeepSpeed prints about its ops while it starts; nobody can act on that."""
    return contextlib.redirect_stdout(io.StringIO())


def _clip(model: nn.Module, limit: float | None) -> float:
    """Scale gradients down to the global norm `limit`; returns the norm before that."""
    limit = limit if limit is not None else float("inf")
    return float(nn.utils.clip_grad_norm_(model.parameters(), limit))


def _plain_state(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> ParameterState:
    state = optimizer.state[parameter]
    moments = {key: state[key].float() for key in MOMENTS}
    return ParameterState(parameter.detach().float(), moments)


@torch.no_grad()
def _load_plain_state(
    parameter: nn.Parameter, optimizer: torch.optim.Optimizer, state: ParameterState, step: int
) -> None:
    parameter.copy_(state.weight)
    optimizer.state[parameter] = {
        # fused AdamW keeps its step count beside the parameter
        "step": torch.tensor(float(step), device=parameter.device),
        **{key: value.to(parameter.device) for key, value in state.moments.items()},
    }


@torch.no_grad()
def _load_zero_state(parameter: nn.Parameter, state: ParameterState) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    parameter.copy_(state.weight)
    safe_set_full_fp32_param(parameter, state.weight.to(parameter.device))
    for key, value in state.moments.items():
        safe_set_full_optimizer_state(parameter, value.to(parameter.device), key)


@torch.no_grad()
def _load_zero3_state(parameter: Any, state: ParameterState) -> None:
    from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

    def partition(whole: Tensor) -> Tensor:
        """This rank's part; the last rank's is padded to the common size."""
        size = parameter.ds_tensor.ds_numel
        flat = whole.flatten()
        padded = torch.nn.functional.pad(flat, (0, size * distributed.world_size() - len(flat)))
        return padded[distributed.rank() * size :][:size].to(parameter.ds_tensor.device)

    weight = partition(state.weight)
    parameter.ds_tensor.copy_(weight)
    safe_set_local_fp32_param(parameter, weight)
    for key, value in state.moments.items():
        safe_set_local_optimizer_state(parameter, partition(value), key)


def compiled_ops() -> list[str]:
    """Names of the DeepSpeed ops that this machine could compile; training needs none of them."""
    _import_deepspeed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    from deepspeed.ops import __compatible_ops__

    return sorted(name for name, compatible in __compatible_ops__.items() if compatible)
