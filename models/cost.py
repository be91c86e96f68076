"""What a model costs, from its config alone: parameters and floating-point operations.

The formulas are those of its family (models/formulas/). `vocab_size` is the tokenizer's: it is
for language models whose `config.vocab_size` is None, wins over that, and is of no account for
others. Every function raises ValueError where a vocabulary size is needed and none is known.
"""

from models.configs import ModelConfig
from models.families import family
from models.formulas.cost import Cost


def parameters(config: ModelConfig, vocab_size: int | None = None) -> int:
    """Return the number of parameters; equals the sum over the built module's parameters."""
    return _cost(config, vocab_size).parameters


def trained_parameters(config: ModelConfig, vocab_size: int | None = None) -> int:
    """Return how many of them learn where the model is trained: all, or what its adapter says."""
    cost = _cost(config, vocab_size)
    return cost.parameters if cost.trained is None else cost.trained


def largest_layer(config: ModelConfig, vocab_size: int | None = None) -> int:
    """Return the most parameters of a single layer, a table of tokens included.

    It is what a process holds whole at a time where layers are made, loaded or gathered one by
    one, as ZeRO 3 does.
    """
    return _cost(config, vocab_size).largest_layer


def flops_per_sample(config: ModelConfig, length: int = 1, vocab_size: int | None = None) -> float:
    """Return the floating-point operations to train on one sample, forward and backward.

    `length` is that of the sample in tokens; 1 for a model that reads none.
    """
    return float(_cost(config, vocab_size).flops_per_sample(length))


def flops_per_token(
    config: ModelConfig, sequence_length: int, vocab_size: int | None = None
) -> float:
    """Return `flops_per_sample` of a sequence, over its tokens."""
    return flops_per_sample(config, sequence_length, vocab_size) / sequence_length


def _cost(config: ModelConfig, vocab_size: int | None) -> Cost:
    return family(config).cost(config, vocab_size)
