"""Cost of a multilayer perceptron."""

from itertools import pairwise

from models.configs import MLPConfig, PerceptronConfig
from models.formulas.cost import Cost


def mlp_cost(config: PerceptronConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; there is no vocabulary in it.

    Training takes 6 operations per weight and example: 2 forward, 2 for the gradient of the
    weight, and 2 for that of the layer's input, which the first layer does not need.
    """
    layers = [(rows, columns) for rows, columns in pairwise(config.widths)]
    weights = [rows * columns for rows, columns in layers]
    bias = config.bias if isinstance(config, MLPConfig) else True
    held = [(rows + bias) * columns for rows, columns in layers]
    return Cost(
        parameters=sum(held),
        largest_layer=max(held),
        flops_per_sample=lambda length: length * (6 * sum(weights) - 2 * weights[0]),
    )
