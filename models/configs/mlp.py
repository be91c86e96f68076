"""A multilayer perceptron, as its sizes and choices."""

from dataclasses import dataclass, field
from typing import ClassVar

from models.configs.base import ClassifierConfig
from models.configs.checks import MOST_LAYERS, check_choice, check_probability, check_size

ACTIVATIONS = ("sigmoid", "tanh", "relu", "gelu")
INITS = ("kaiming", "xavier")
NO_HIDDEN = "it is of hidden units, and model.hidden=[] has none"


@dataclass
class MLPConfig(ClassifierConfig):
    """Layers of fully connected units, from the features of an example to a score per class.

    Raises:
        ValueError: from the constructor, for a value that cannot work.
    """

    shapeless: ClassVar[tuple[str, ...]] = ("activation",)
    initial: ClassVar[tuple[str, ...]] = ("init",)

    family: str = "mlp"
    hidden: list[int] = field(default_factory=lambda: [64])
    """Units of each hidden layer, from input to output; []: none, a linear classifier."""
    activation: str = "relu"
    """Of hidden units: sigmoid, tanh, relu or gelu."""
    dropout: float = 0.0
    """Probability, on hidden units."""
    init: str = "kaiming"
    """Std of the initial weights of a layer: kaiming, sqrt(2 / its inputs) (He et al. 2015), or
    xavier, sqrt(2 / (its inputs + its outputs)) (Glorot and Bengio 2010). Biases start at 0."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        check_choice("family", self.family, ("mlp",))
        if len(self.hidden) > MOST_LAYERS:
            raise ValueError(
                f"model.hidden has {len(self.hidden):,} layers and must have at most "
                f"{MOST_LAYERS:,}"
            )
        for layer, units in enumerate(self.hidden):
            check_size(f"hidden[{layer}]", units)
        check_choice("activation", self.activation, ACTIVATIONS)
        check_choice("init", self.init, INITS)
        check_probability("dropout", self.dropout)

    def unread(self) -> dict[str, str]:
        """Settings that change nothing as the others are, and what they are for."""
        without = {} if self.hidden else dict.fromkeys(("activation", "dropout"), NO_HIDDEN)
        return super().unread() | without

    @property
    def widths(self) -> list[int]:
        """Numbers per example before the first layer and after each."""
        return [self.inputs, *self.hidden, self.classes]
