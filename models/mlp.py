"""A multilayer perceptron: features in, scores of classes or other numbers out.

B examples, F features, N numbers before a layer, O outputs.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.configs import MLPConfig
from models.dropout import Dropout, number_dropouts
from models.layers import Linear

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": functional.gelu,
    "identity": lambda z: z,
}


class MLP(nn.Module):
    """Fully connected layers, with the activation and dropout after each but the last.

    Set `activation_checkpointing` to keep only the input of each hidden layer for the backward
    pass and compute the rest again.
    """

    def __init__(self, config: MLPConfig) -> None:
        """Draw the weights."""
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.layers = nn.ModuleList(
            Linear(inputs, outputs, bias=config.bias, std=_std(config.init, inputs, outputs))
            for inputs, outputs in pairwise(config.widths)
        )
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in config.hidden)
        number_dropouts(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs (B, O) of the examples x (B, F); scores are before any softmax."""
        *hidden, last = self.layers
        for layer, dropout in zip(hidden, self.dropouts, strict=True):
            if self.activation_checkpointing and self.training:
                x = checkpoint(self._hidden, layer, dropout, x, use_reentrant=False)
            else:
                x = self._hidden(layer, dropout, x)  # (B, N)
        scores: Tensor = last(x)
        return scores

    def _hidden(self, layer: nn.Module, dropout: nn.Module, x: Tensor) -> Tensor:
        """One hidden layer over x (B, N)."""
        y: Tensor = dropout(ACTIVATIONS[self.config.activation](layer(x)))
        return y


def _std(init: str, inputs: int, outputs: int) -> float:
    """Std of the initial weights of a layer; see MLPConfig.init."""
    fan = inputs if init == "kaiming" else inputs + outputs
    return float((2 / fan) ** 0.5)
