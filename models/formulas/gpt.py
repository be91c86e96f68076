"""Cost of a decoder-only Transformer.

D model width, H query heads, G key and value heads, K head width, F feed-forward width, T tokens
of a sample, V vocabulary.
"""

from models.configs import GPTConfig
from models.formulas.adapters import adapter_parameters
from models.formulas.cost import Cost, output_layer, vocabulary


def gpt_cost(config: GPTConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per matrix weight and token, the output head included, and
    12 layers H K T for the scores and the weighted sums of attention (Kaplan et al. 2020, section
    2.1; PaLM, Chowdhery et al. 2022, appendix B, from which the usual MFU is computed). As there,
    attention is not halved for being causal, and what activation checkpointing computes again is
    not counted. Weights that stay as they are have no gradient of their own: 4 operations.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V = vocabulary(config, vocab_size)
    D, H, G, K = config.width, config.heads, config.key_value_heads, config.head_width
    F = config.feed_forward_width
    up_width = F * (2 if config.activation == "swiglu" else 1)
    qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
    matrices = (  # inputs, outputs and whether there is a bias, of the projections of a block
        (D, (H + 2 * G) * K, qkv_bias),
        (H * K, D, config.bias),
        (D, up_width, config.bias),
        (F, D, config.bias),
    )
    projections = [rows * columns for rows, columns, _ in matrices]
    biased = [(rows + bias) * columns for rows, columns, bias in matrices]
    vectors = 2 * K * config.qk_norm + H * K * (config.score == "additive")  # of the heads
    norm = D * (2 if config.norm == "layernorm" and config.bias else 1)
    output, output_multiplied = output_layer(config, V, D)
    tables = [V * D, output]
    if config.positions == "learned":
        tables.append(config.max_positions * D)
    updates = adapter_parameters(config)
    if config.adapter == "bias":
        biases = sum(both - alone for both, alone in zip(biased, projections, strict=True))
        norms = D * (2 * config.layers + 1) * (config.norm == "layernorm" and config.bias)
        trained: int | None = config.layers * biases + norms
    else:
        trained = None if config.adapter is None else updates
    multiplied = config.layers * sum(projections) + output_multiplied  # that each token meets

    def flops(T: int) -> int:
        weights = 6 * multiplied if trained is None else 4 * multiplied + 6 * updates
        return T * (weights + 12 * config.layers * H * K * T)

    return Cost(
        parameters=config.layers * (sum(biased) + vectors + 2 * norm)
        + norm
        + sum(tables)
        + updates,
        largest_layer=max(*biased, *tables, norm),
        flops_per_sample=flops,
        trained=trained,
    )
