"""Cost of recurrent networks as language models.

D units of a layer and numbers per token, V vocabulary.
"""

from models.configs import RecurrentConfig
from models.formulas.cost import (
    Cost,
    Flops,
    Kept,
    Pass,
    Shape,
    matrices,
    output_layer,
    vocabulary,
)

GATES = {"rnn": 1, "lstm": 4}
"""Sums that each unit computes: its own, or one for each gate of its cell."""
FEW_STEPS = 16  # as models/recurrent/stepping.py has it, which imports torch
FUSED = 17
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
        kept=lambda own: _kept(config, own),
    )


def _kept(config: RecurrentConfig, own: Pass) -> Kept:
    """What the layers keep: outputs of every step, from which the next layer reads, too.

    An LSTM keeps its gates, its cells and their tanh besides, in fp32. oneDNN, which takes fp32
    steps on a CPU, keeps 16 to 20 numbers of each unit and step (measured), and sorted weights.
    """
    D, N, e = config.width, own.tokens, own.number
    steps = own.sequences * (own.length + 1)  # one more stands before the first
    layer = e * steps * D
    if config.family == "lstm" and not own.half and own.length >= FEW_STEPS:
        layer += 4 * (FUSED * N + 4 * (2 * D + 2)) * D
    elif config.family == "lstm":
        layer += 4 * (4 * N + steps + N) * D
    if not config.dropout:
        return Kept(config.layers, layer, 0, 8 * N + e * N * D)
    # Each layer reads what dropout has left, and one more mask stands behind the last.
    return Kept(config.layers, layer + (1 + e) * N * D, 0, 8 * N + N * D)
