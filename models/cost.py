"""What a model costs, from its config alone, in closed form: numbers, operations, bytes.

The formulas are those of its family (models/formulas/). `vocab_size` is the tokenizer's: it is
for language models whose `config.vocab_size` is None, wins over that, and is of no account for
others. Every function raises ValueError where a vocabulary size is needed and none is known.

What of this is split over ranks, and what ranks send each other, is in orchestrator/plan.
"""

from collections.abc import Mapping

from models.configs import ModelConfig
from models.families import family
from models.formulas.cost import Cost, Flops, Kept, Pass, Shape
from models.formulas.loss import loss_bytes, token_loss_bytes

__all__ = [
    "Flops",
    "Kept",
    "Pass",
    "activations",
    "cache_numbers",
    "flops",
    "flops_6n",
    "flops_per_sample",
    "flops_per_token",
    "largest_layer",
    "loss_bytes",
    "parameters",
    "tensors",
    "token_loss_bytes",
    "trained_parameters",
]


def parameters(config: ModelConfig, vocab_size: int | None = None) -> int:
    """Return the number of parameters; equals the sum over the built module's parameters."""
    return _cost(config, vocab_size).parameters


def tensors(config: ModelConfig, vocab_size: int | None = None) -> Mapping[str, Shape]:
    """Return the shape of each parameter by its name in the built module."""
    return _cost(config, vocab_size).tensors


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


def flops(config: ModelConfig, length: int = 1, vocab_size: int | None = None) -> Flops:
    """Return the floating-point operations of one sample: forward, backward, computed again.

    `length` is that of the sample in tokens; 1 for a model that reads none.
    """
    return _cost(config, vocab_size).flops(length)


def flops_per_sample(config: ModelConfig, length: int = 1, vocab_size: int | None = None) -> float:
    """Return the floating-point operations to train on one sample, forward and backward."""
    return float(flops(config, length, vocab_size).training)


def flops_per_token(
    config: ModelConfig, sequence_length: int, vocab_size: int | None = None
) -> float:
    """Return `flops_per_sample` of a sequence, over its tokens."""
    return flops_per_sample(config, sequence_length, vocab_size) / sequence_length


def flops_6n(config: ModelConfig, vocab_size: int | None = None) -> float:
    """Return 6 N, the usual approximation to `flops_per_token` (Kaplan et al. 2020, section 2.1).

    N counts all parameters, as Hoffmann et al. 2022 do. It leaves attention out, and takes tables
    that are looked up for matrices.
    """
    return 6.0 * parameters(config, vocab_size)


def cache_numbers(config: ModelConfig, length: int, vocab_size: int | None = None) -> int | None:
    """Return the numbers that writing text keeps of a sequence of so many tokens.

    Keys and values of every token, of a recurrent network its state. None: it writes none, or
    nobody has worked it out.
    """
    own = _cost(config, vocab_size).cache
    return None if own is None else own(length)


def activations(
    config: ModelConfig, micro_batch: Pass, vocab_size: int | None = None
) -> Kept | None:
    """Return the bytes that a forward pass keeps for its backward pass; None: not worked out.

    Loss and logits are not in it: see `loss_bytes`.
    """
    own = _cost(config, vocab_size).kept
    return None if own is None else own(micro_batch)


def _cost(config: ModelConfig, vocab_size: int | None) -> Cost:
    return family(config).cost(config, vocab_size)
