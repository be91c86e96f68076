"""Cost of a multilayer perceptron."""

from itertools import pairwise

from models.configs import MLPConfig
from models.formulas.cost import Cost


def mlp_cost(config: MLPConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; there is no vocabulary in it.

    Training takes 6 operations per weight and example: 2 forward, 2 for the gradient of the
    weight, and 2 for that of the layer's input, which the first layer does not need.
    """
    layers = [(rows, columns) for rows, columns in pairwise(config.widths)]
    weights = [rows * columns for rows, columns in layers]
    biased = [(rows + 1) * columns for rows, columns in layers]
    return Cost(
        parameters=sum(biased),
        largest_layer=max(biased),
        flops_per_sample=lambda length: length * (6 * sum(weights) - 2 * weights[0]),
    )
