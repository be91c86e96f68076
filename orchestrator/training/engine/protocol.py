"""What the training loop and checkpoints ask of an engine."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from orchestrator.training.state import Slice, StateReader


class Engine(Protocol):
    """A model on its device, and what trains it. Every rank calls every method, in one order.

    An engine built without an optimizer is frozen: it has a forward pass and a state, and
    `backward` and `step` raise RuntimeError.
    """

    device: torch.device
    model: nn.Module

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the model returns for these inputs, which lie on the engine's device."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of this rank's part of the step's loss; parts add up over ranks."""

    def step(self, learning_rate: float) -> float:
        """Reduce, clip and apply the gradient; returns its global norm before clipping.

        A norm that is not finite ends the job; plain engines have not applied that gradient.
        """

    def state(self) -> Iterator[Slice]:
        """What this rank answers for of weights and optimizer state; no communication.

        Over all ranks each element of each parameter comes exactly once. The tensors may be views
        of the live state: copy them before the next step. Before the first step there is no
        optimizer state yet.
        """

    def load_state(self, reader: StateReader, step: int, *, optimizer: bool = True) -> None:
        """Take over weights and optimizer state as they were after `step` steps.

        Each rank reads only what it holds. Without `optimizer`, the optimizer starts anew.

        Raises:
            DifferentState: the reader holds other tensors than the model and its optimizer.
        """
