"""What a model costs, from its config alone: parameters, bytes, floating-point operations.

Plain arithmetic, exact where it says so, so that a plan needs neither torch nor memory.
D model width, H query heads, G key and value heads, K head width, F feed-forward width,
V vocabulary.
"""

from models.configs import GPTConfig, ModelConfig


def parameters(config: ModelConfig, vocab_size: int | None = None) -> int:
    """Return the number of trained numbers; equals the sum over the built module's parameters.

    Args:
        config: the model.
        vocab_size: the tokenizer's, where `config.vocab_size` is None; otherwise it wins.

    Raises:
        ValueError: no vocabulary size is known, or no formula for the family.
    """
    gpt = _gpt(config)
    D, K = gpt.width, gpt.head_width
    norm = D * (2 if gpt.norm == "layernorm" and gpt.bias else 1)
    count = _matmul_parameters(gpt, vocab_size) + (2 * gpt.layers + 1) * norm
    if not gpt.tied_embedding:  # a tied table is in the count, as the output head
        count += _vocab_size(gpt, vocab_size) * D
    if gpt.positions == "learned":
        count += gpt.max_positions * D
    if gpt.bias:
        qkv = (gpt.heads + 2 * gpt.key_value_heads) * K
        up = gpt.feed_forward_width * (2 if gpt.activation == "swiglu" else 1)
        count += gpt.layers * (qkv + D + up + D)
    return count


def embedding_parameters(config: ModelConfig, vocab_size: int | None = None) -> int:
    """Return how many of `parameters` are tables of tokens and positions, or an untied head.

    Kaplan et al. 2020 leave these out of N, the model size in their scaling laws.
    """
    gpt = _gpt(config)
    tables = 1 if gpt.tied_embedding else 2
    count = tables * _vocab_size(gpt, vocab_size) * gpt.width
    if gpt.positions == "learned":
        count += gpt.max_positions * gpt.width
    return count


def flops_per_token(
    config: ModelConfig, sequence_length: int, vocab_size: int | None = None
) -> float:
    """Return the floating-point operations to train on one token, forward and backward.

    6 per matrix weight, the output head included, and 12 layers H K T for the scores and the
    weighted sums of attention (Kaplan et al. 2020, section 2.1; PaLM, Chowdhery et al. 2022,
    appendix B, from which the usual MFU is computed). As there, attention is not halved for
    being causal, and what activation checkpointing computes again is not counted.

    Args:
        config: the model.
        sequence_length: tokens in a row, T.
        vocab_size: as in `parameters`.
    """
    gpt = _gpt(config)
    attention = 12 * gpt.layers * gpt.heads * gpt.head_width * sequence_length
    return float(6 * _matmul_parameters(gpt, vocab_size) + attention)


def weight_bytes(
    config: ModelConfig, bytes_per_parameter: float, vocab_size: int | None = None
) -> float:
    """Return the bytes of the weights alone: 4 per parameter in fp32, 2 in bf16."""
    return parameters(config, vocab_size) * bytes_per_parameter


def _matmul_parameters(config: GPTConfig, vocab_size: int | None) -> int:
    """Return the weights that a token is multiplied with: projections and output head, no bias."""
    D, K = config.width, config.head_width
    attention = D * (config.heads + 2 * config.key_value_heads) * K + D * D
    matrices = 3 if config.activation == "swiglu" else 2
    feed_forward = matrices * D * config.feed_forward_width
    return config.layers * (attention + feed_forward) + _vocab_size(config, vocab_size) * D


def _vocab_size(config: GPTConfig, vocab_size: int | None) -> int:
    """Return the vocabulary size to count with."""
    size = config.vocab_size if vocab_size is None else vocab_size
    if size is None:
        raise ValueError("model.vocab_size is not set; give it, or vocab_size, to count parameters")
    return size


def _gpt(config: ModelConfig) -> GPTConfig:
    """Return the config as one that the formulas here are for."""
    if not isinstance(config, GPTConfig):
        raise ValueError(f"model.family={config.family!r} has no cost formula; gpt has")
    return config
