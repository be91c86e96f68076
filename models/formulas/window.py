"""Cost of a fully connected network over a window of tokens.

D numbers per token, H hidden units, V vocabulary.
"""

from models.configs import WindowConfig
from models.formulas.cost import Cost, output_layer, vocabulary


def window_cost(config: WindowConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per matrix weight and token, the output head included.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D, H = vocabulary(config, vocab_size), config.width, config.hidden
    layers = [(config.window_inputs, H), (H, D)]
    biased = [(rows + 1) * columns for rows, columns in layers]
    output, output_multiplied = output_layer(config, V, D)
    multiplied = sum(rows * columns for rows, columns in layers) + output_multiplied
    return Cost(
        parameters=sum(biased) + V * D + output,
        largest_layer=max(*biased, V * D),
        flops_per_sample=lambda T: T * 6 * multiplied,
    )
