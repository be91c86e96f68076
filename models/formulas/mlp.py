"""Cost of a multilayer perceptron."""

from itertools import pairwise

from models.configs import MLPConfig, PerceptronConfig
from models.formulas.cost import Cost, Flops, Kept, Pass, Shape, matrices, projection


def mlp_cost(config: PerceptronConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; there is no vocabulary in it.

    Training takes 6 operations per weight and example: 2 forward, 2 for the gradient of the
    weight, and 2 for that of the layer's input, which the first layer does not need.
    """
    bias = config.bias if isinstance(config, MLPConfig) else True
    tensors: dict[str, Shape] = {}
    for number, (inputs, outputs) in enumerate(pairwise(config.widths)):
        tensors |= projection(f"layers.{number}", inputs, outputs, bias=bias)
    multiplied, first = matrices(tensors, "layers."), matrices(tensors, "layers.0.")

    def flops(length: int) -> Flops:
        return Flops(2 * length * multiplied, spared=2 * length * first)

    def kept(own: Pass) -> Kept:
        """Inputs of every layer; of a hidden one sums, where GELU needs them, and a mask."""
        sums = isinstance(config, MLPConfig) and config.activation == "gelu"
        masks = isinstance(config, MLPConfig) and config.dropout > 0
        hidden = sum(config.hidden)
        # With dropout the activation's own result is kept beside what is left of it.
        numbers = config.widths[0] + hidden * (1 + sums + masks * (not sums))
        return Kept(0, 0, 0, own.tokens * (own.number * numbers + hidden * masks))

    return Cost(tensors, flops, kept=kept)
