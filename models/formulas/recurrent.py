"""Cost of recurrent networks as language models.

D units of a layer and numbers per token, V vocabulary.
"""

from models.configs import RecurrentConfig
from models.formulas.cost import Cost, output_layer, vocabulary

GATES = {"rnn": 1, "lstm": 4}
"""Sums that each unit computes: its own, or one for each gate of its cell."""


def recurrent_cost(config: RecurrentConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per matrix weight and token, the output head included; there is
    nothing that grows with the length of a sequence.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D = vocabulary(config, vocab_size), config.width
    weights = GATES[config.family] * 2 * D * D  # of a layer: over its inputs and over its state
    layer = weights + GATES[config.family] * D
    output, output_multiplied = output_layer(config, V, D)
    multiplied = config.layers * weights + output_multiplied
    return Cost(
        parameters=config.layers * layer + V * D + output,
        largest_layer=max(layer, V * D),
        flops_per_sample=lambda T: T * 6 * multiplied,
    )
