"""Cost of a fully connected network over a window of tokens.

D numbers per token, H hidden units, V vocabulary.
"""

from models.configs import WindowConfig
from models.formulas.cost import Cost, Flops, Shape, matrices, output_layer, projection, vocabulary


def window_cost(config: WindowConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per matrix weight and token, the output head included.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D, H = vocabulary(config, vocab_size), config.width, config.hidden
    tensors: dict[str, Shape] = {"embedding.weight": (V, D)}
    tensors |= projection("hidden_layer", config.window_inputs, H) | projection("projection", H, D)
    layers = matrices(tensors, "hidden_layer.", "projection.")
    output, outputs = output_layer(config, V, D)
    tensors |= output
    return Cost(tensors, lambda T: Flops(2 * T * (layers + outputs * D)))
