"""Cost of recurrent networks as language models.

D units of a layer and numbers per token, V vocabulary.
"""

from models.configs import RecurrentConfig
from models.formulas.cost import Cost, Flops, Shape, matrices, output_layer, vocabulary

GATES = {"rnn": 1, "lstm": 4}
"""Sums that each unit computes: its own, or one for each gate of its cell."""
STATES = {"rnn": 1, "lstm": 2}
"""Numbers that a unit hands from token to token: its output, and of a cell what it holds."""


def recurrent_cost(config: RecurrentConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per matrix weight and token, the output head included; there is
    nothing that grows with the length of a sequence.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D = vocabulary(config, vocab_size), config.width
    rows, states = GATES[config.family] * D, STATES[config.family]
    tensors: dict[str, Shape] = {"embedding.weight": (V, D)}
    for n in range(config.layers):
        tensors |= {f"layers.{n}.{name}_weight": (rows, D) for name in ("input", "state")}
        tensors[f"layers.{n}.bias"] = (rows,)
    output, outputs = output_layer(config, V, D)
    tensors |= output
    layers = matrices(tensors, "layers.")
    return Cost(
        tensors,
        lambda T: Flops(2 * T * (layers + outputs * D)),
        cache=lambda T: config.layers * states * D,
    )
