"""Plain PyTorch: one process that trains, or any number that each hold a frozen model whole."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.config import EngineConfig, OptimConfig
from orchestrator.training import optim as optimizers
from orchestrator.training.engine import whole
from orchestrator.training.materialise import materialise
from orchestrator.training.state import Slice, StateReader, check_optimizer, check_parameters


class TorchEngine:
    """No DeepSpeed: the reference the others are compared with.

    With bf16, a model that is trained keeps fp32 weights and runs matrix products under autocast;
    a frozen one is kept in bf16.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: EngineConfig,
        optim: OptimConfig | None,
        *,
        device: torch.device,
        seed: int,
        draw: bool,
    ) -> None:
        """Materialise a model from the meta device; see `build`."""
        self.device = device
        self.model = model
        frozen_in_half = settings.precision == "bf16" and optim is None
        self._dtype = torch.bfloat16 if frozen_in_half else torch.float32
        materialise(model, device, seed=seed, draw=draw, made=self._cast)
        self._forward: Any = torch.compile(model) if settings.compile else model
        self._autocast = settings.precision == "bf16" and optim is not None
        self._optim = optim
        self._optimizer = None if optim is None else optimizers.build(model, optim)
        self._trained_parameters = [own for own in model.parameters() if own.requires_grad]
        self._state_keys = whole.state_keys(model, self._optimizer)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model returns for these inputs; floating-point ones in its precision."""
        inputs = tuple(cast(value, self._dtype) for value in inputs)
        named = {name: cast(value, self._dtype) for name, value in named.items()}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            return self._forward(*inputs, **named)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss."""
        self._trained()
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> float:
        """Clip and apply the gradient; returns its norm before clipping."""
        optim, optimizer = self._trained()
        norm = clip(self._trained_parameters, optim.gradient_clip)
        if not math.isfinite(norm):
            return norm
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return norm

    def state(self) -> Iterator[Slice]:
        """This rank's share of each parameter."""
        for each in self._views():
            yield whole.own_share(each)

    def load_state(self, reader: StateReader, step: int, *, optimizer: bool = True) -> None:
        """Take over weights and optimizer state."""
        check_parameters(reader, whole.shapes(self.model))
        if self._optim is not None and self._optimizer is not None:
            self._optimizer.state.clear()
            if optimizer:
                check_optimizer(reader, self._state_keys, self._optim.name)
                for name, parameter in self.model.named_parameters():
                    if name in self._state_keys:
                        keys = self._state_keys[name]
                        whole.create_state(self._optimizer, parameter, keys, step)
        whole.fill_together(self._views(), reader)

    def _cast(self, parameter: nn.Parameter) -> None:
        parameter.data = parameter.data.to(self._dtype)

    def _views(self) -> Iterator[Slice]:
        return whole.views(self.model.named_parameters(), self._optimizer)

    def _trained(self) -> tuple[OptimConfig, torch.optim.Optimizer]:
        if self._optim is None or self._optimizer is None:
            raise RuntimeError("this engine was built without an optimizer: its model is frozen")
        return self._optim, self._optimizer


def cast(value: Any, dtype: torch.dtype) -> Any:
    """A floating-point tensor in this precision; anything else as it is."""
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> float:
    """Scale gradients down to the global norm `limit`; returns the norm before that."""
    limit = limit if limit is not None else float("inf")
    return float(nn.utils.clip_grad_norm_(parameters, limit))
