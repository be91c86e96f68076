"""Cost of recurrent networks as language models.

D units of a layer and numbers per token, V vocabulary.
"""

from models.configs import RecurrentConfig
from models.formulas.cost import Cost, vocabulary

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
    tables = V * D * (1 if config.tied_embedding else 2)
    multiplied = config.layers * weights + V * D
    return Cost(
        parameters=config.layers * layer + tables,
        largest_layer=max(layer, V * D),
        flops_per_sample=lambda T: T * 6 * multiplied,
    )
