"""Multilayer perceptrons, as their sizes and choices."""

from dataclasses import dataclass, field
from typing import ClassVar

from models.configs.base import FeatureModelConfig
from models.configs.checks import (
    MOST_LAYERS,
    check_choice,
    check_probability,
    check_size,
    check_switch,
)

ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu", "identity")
INITS = ("kaiming", "xavier")
COSTS = ("quadratic", "cross_entropy")
NO_HIDDEN = "it is of hidden units, and model.hidden=[] has none"


@dataclass
class PerceptronConfig(FeatureModelConfig):
    """Layers of fully connected units, from the features of an example to its outputs.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    trained_by: ClassVar[str | None] = "stage=classify"

    hidden: list[int] = field(default_factory=lambda: [64])
    """Units of each hidden layer, from input to output; []: none, a linear model."""

    def __post_init__(self) -> None:
        """Check the layers."""
        super().__post_init__()
        if len(self.hidden) > MOST_LAYERS:
            raise ValueError(
                f"model.hidden has {len(self.hidden):,} layers and must have at most "
                f"{MOST_LAYERS:,}"
            )
        for layer, units in enumerate(self.hidden):
            check_size(f"hidden[{layer}]", units)

    @property
    def widths(self) -> list[int]:
        """Numbers per example before the first layer and after each.

        Raises:
            ValueError: one is open, to be filled in from the examples.
        """
        if self.inputs is None or self.outputs is None:
            raise ValueError(
                "model.inputs and model.outputs are not set; give them the numbers of the "
                "examples, e.g. dataclasses.replace(config, inputs=64, outputs=10)"
            )
        return [self.inputs, *self.hidden, self.outputs]


@dataclass
class MLPConfig(PerceptronConfig):
    """A multilayer perceptron in PyTorch.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    shapeless: ClassVar[tuple[str, ...]] = ("activation",)
    initial: ClassVar[tuple[str, ...]] = ("init",)

    family: str = "mlp"
    activation: str = "relu"
    """Of hidden units: sigmoid, tanh, relu, gelu, or identity, with which layers of layers are one
    linear layer."""
    bias: bool = True
    """Whether each layer adds a bias."""
    dropout: float = 0.0
    """Probability, on hidden units."""
    init: str = "kaiming"
    """Std of the initial weights of a layer: kaiming, sqrt(2 / its inputs) (He et al. 2015), or
    xavier, sqrt(2 / (its inputs + its outputs)) (Glorot and Bengio 2010). Biases start at 0."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_choice("activation", self.activation, ACTIVATIONS)
        check_switch("bias", self.bias)
        check_choice("init", self.init, INITS)
        check_probability("dropout", self.dropout)

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        without = {} if self.hidden else dict.fromkeys(("activation", "dropout"), NO_HIDDEN)
        return super().unread() | without


@dataclass
class ByHandConfig(PerceptronConfig):
    """A network of sigmoid units in numpy, whose gradients are written out; see models/by_hand.py.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    shapeless: ClassVar[tuple[str, ...]] = ("cost",)

    family: str = "mlp_by_hand"
    hidden: list[int] = field(default_factory=lambda: [30])
    """Units of each hidden layer, from input to output; []: none."""
    cost: str = "quadratic"
    """What is minimised: quadratic, half the squared distance of the outputs to the label's, or
    cross_entropy of each output, whose gradient does not vanish where a unit is surely wrong."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_choice("cost", self.cost, COSTS)
