"""Back-propagation by hand: a network of sigmoid units in numpy, with its four equations.

B examples, N units of a layer, M units of the layer before.

With activations a(l) = sigmoid(z(l)), z(l) = a(l-1) W(l)^T + b(l), and the error of a unit
delta(l) = dC/dz(l), the gradient of the cost C of one example is (Rumelhart, Hinton and Williams
1986; in this form Nielsen 2015, chapter 2, BP1 to BP4):

1. output error:     delta(L) = dC/da(L) * sigmoid'(z(L))
2. propagation:      delta(l) = delta(l+1) W(l+1) * sigmoid'(z(l))
3. bias gradient:    dC/db(l) = delta(l)
4. weight gradient:  dC/dW(l) = delta(l)^T a(l-1)

and sigmoid'(z) = a (1 - a). No torch here but for `twin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.configs import ByHandConfig, MLPConfig

if TYPE_CHECKING:
    from torch import nn

Numbers = NDArray[np.floating[Any]]


def sigmoid(z: Numbers) -> Numbers:
    """1 / (1 + exp(-z)), by tanh, which never overflows."""
    half = z.dtype.type(0.5)
    squashed: Numbers = half * (1 + np.tanh(half * z))
    return squashed


@dataclass
class Layer:
    """A layer of sigmoid units."""

    weight: Numbers
    """(N, M)."""
    bias: Numbers
    """(N,)."""


class Network:
    """Layers of sigmoid units that learn by mini-batch gradient descent."""

    def __init__(self, layers: Sequence[Layer], cost: str) -> None:
        """Take the layers, from input to output, and the name of the cost."""
        self.layers, self.cost = list(layers), cost

    @classmethod
    def drawn(cls, config: ByHandConfig, seed: int) -> Network:
        """A network with random numbers, float32.

        Weights have the std 1 / sqrt(inputs of the unit), so that no unit starts saturated;
        biases are standard normal.
        """
        draw = np.random.Generator(np.random.Philox(seed))
        layers = [
            Layer(
                (draw.standard_normal((units, before)) / before**0.5).astype(np.float32),
                draw.standard_normal(units).astype(np.float32),
            )
            for before, units in pairwise(config.widths)
        ]
        return cls(layers, config.cost)

    def forward(self, x: Numbers) -> list[Numbers]:
        """Activations (B, N) of every layer for the examples x (B, F), x itself first."""
        activations = [x]
        for layer in self.layers:
            activations.append(sigmoid(activations[-1] @ layer.weight.T + layer.bias))
        return activations

    def losses(self, outputs: Numbers, targets: Numbers) -> Numbers:
        """The cost (B,) of outputs (B, N) where targets (B, N) were asked for."""
        if self.cost == "quadratic":
            squared: Numbers = ((outputs - targets) ** 2).sum(1) / 2
            return squared
        kept = np.clip(outputs, np.finfo(outputs.dtype).tiny, 1 - np.finfo(outputs.dtype).eps)
        entropy: Numbers = -(targets * np.log(kept) + (1 - targets) * np.log1p(-kept)).sum(1)
        return entropy

    def output_error(self, outputs: Numbers, targets: Numbers) -> Numbers:
        """Equation 1, (B, N); of the cross-entropy, whose dC/da cancels sigmoid'."""
        if self.cost == "cross_entropy":
            return outputs - targets
        return (outputs - targets) * outputs * (1 - outputs)

    def gradients(self, activations: Sequence[Numbers], targets: Numbers) -> list[Layer]:
        """The gradient of the summed cost of the examples, by layer.

        Args:
            activations: of `forward`.
            targets: (B, N) of the last layer.
        """
        delta = self.output_error(activations[-1], targets)
        found: list[Layer] = []
        for index in range(len(self.layers) - 1, -1, -1):
            before = activations[index]
            found.append(Layer(delta.T @ before, delta.sum(0)))  # equations 4 and 3
            if index:
                delta = (delta @ self.layers[index].weight) * before * (1 - before)  # equation 2
        return found[::-1]

    def descend(
        self, gradients: Sequence[Layer], rate: float, examples: int, decay: float = 0.0
    ) -> None:
        """A step down the mean gradient: w -= rate (dC/dw + decay w), b -= rate dC/db.

        Args:
            gradients: summed over examples.
            rate: of learning.
            examples: how many.
            decay: of weights.
        """
        for layer, gradient in zip(self.layers, gradients, strict=True):
            if decay:
                layer.weight *= 1 - rate * decay
            layer.weight -= rate / examples * gradient.weight
            layer.bias -= rate / examples * gradient.bias

    def named(self) -> dict[str, Numbers]:
        """The numbers that it learns, by the names that they have in its `twin`."""
        return {
            f"layers.{index}.{name}": getattr(layer, name)
            for index, layer in enumerate(self.layers)
            for name in ("weight", "bias")
        }


def twin(config: ByHandConfig) -> nn.Module:
    """The same network in PyTorch; its outputs are z of the last layer, the scores of classes.

    A checkpoint of a network by hand opens as this module.
    """
    from models.mlp import MLP

    plain = MLPConfig(
        inputs=config.inputs,
        outputs=config.outputs,
        hidden=config.hidden,
        activation="sigmoid",
        init="xavier",
    )
    return MLP(plain)
