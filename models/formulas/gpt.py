"""Cost of a decoder-only Transformer.

B sequences, T tokens of each, N = B x T, D model width, H query heads, G key and value heads, K
head width, F feed-forward width, V vocabulary.
"""

from math import prod

from models.configs import GPTConfig
from models.formulas.adapters import adapter_tensors, updated, virtual_tensors, virtual_tokens
from models.formulas.cost import (
    Cost,
    Flops,
    Kept,
    Pass,
    Shape,
    norm,
    output_layer,
    projection,
    vocabulary,
)


def gpt_cost(config: GPTConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the tokenizer's, and wins over the config's.

    Training takes 6 operations per matrix weight and token, the output head included, and
    12 layers H K T for the scores and the weighted sums of attention (Kaplan et al. 2020, section
    2.1; PaLM, Chowdhery et al. 2022, appendix B, from which the usual MFU is computed). As there,
    attention is not halved for being causal. Weights that stay as they are have no gradient of
    their own: 4 operations.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, L, D = vocabulary(config, vocab_size), config.layers, config.width
    H, G, K = config.heads, config.key_value_heads, config.head_width
    layer = _layer(config)
    own_bias = config.norm == "layernorm" and config.bias
    tensors: dict[str, Shape] = {"embedding.weight": (V, D)}
    if config.positions == "learned":
        tensors["position_embedding.weight"] = (config.max_positions, D)
    tensors |= {f"blocks.{n}.{name}": shape for n in range(L) for name, shape in layer.items()}
    tensors |= norm("norm", D, bias=own_bias)
    output, outputs = output_layer(config, V, D)
    tensors |= output
    virtual, P = virtual_tensors(config), virtual_tokens(config)
    tensors |= virtual
    updates = L * sum(map(prod, adapter_tensors(config).values()))
    trained = None if config.adapter is None else updates + sum(map(prod, virtual.values()))
    if config.adapter == "bias":
        trained = sum(prod(s) for name, s in tensors.items() if name.endswith(".bias"))
    if trained is not None and config.value_head:
        trained += D + (config.adapter != "bias")  # whose sum has the head's
    multiplied = (H + 2 * G) * K * D + H * K * D + D * config.feed_forward_width * _ups(config)

    def flops(T: int) -> Flops:
        attention = 4 * L * H * K * T * (T + P)
        weights = L * multiplied + outputs * D  # that each token meets
        blocks = 2 * T * (L * multiplied + updates) + attention
        frozen = 0 if trained is None else 2 * T * weights
        return Flops(blocks + 2 * T * outputs * D, attention, blocks, frozen)

    # What others keep nobody has worked out.
    plain = config.score == "dot" and not config.sparse and not P
    return Cost(
        tensors,
        flops,
        cache=lambda T: 2 * L * G * K * T,
        kept=(lambda own: _kept(config, own)) if plain else None,
        trained=trained,
    )


def _learning(config: GPTConfig) -> tuple[str, ...]:
    """Projections that need what goes into them for a gradient of weights, their own or added."""
    if config.adapter is None:
        return ("attention.qkv", "attention.output", "ffn.up", "ffn.down")
    return tuple(updated(config))


def _adapter_numbers(config: GPTConfig) -> int:
    """Numbers that an adapter keeps of a token in each layer."""
    if config.adapter == "lora":  # the low rank of each target
        return config.adapter_rank * sum(map(len, updated(config).values()))
    # Of both bottlenecks, what goes in, and the units before and after GELU.
    return 2 * (config.width + 2 * config.adapter_rank) if config.adapter == "bottleneck" else 0


def _ups(config: GPTConfig) -> int:
    """Matrices of a feed-forward layer."""
    return 3 if config.activation == "swiglu" else 2


def _layer(config: GPTConfig) -> dict[str, Shape]:
    """The tensors of a block."""
    D, H, G, K = config.width, config.heads, config.key_value_heads, config.head_width
    F, bias = config.feed_forward_width, config.bias
    own_bias = config.norm == "layernorm" and bias
    qkv_bias = bias if config.qkv_bias is None else config.qkv_bias
    tensors = norm("attention_norm", D, bias=own_bias)
    tensors |= projection("attention.qkv", D, (H + 2 * G) * K, bias=qkv_bias)
    if config.qk_norm:
        tensors |= {f"attention.{name}_norm.weight": (K,) for name in "qk"}
    tensors |= projection("attention.output", H * K, D, bias=bias)
    if config.score == "additive":
        tensors["attention.score.vectors.weight"] = (H, K)
    tensors |= norm("ffn_norm", D, bias=own_bias)
    tensors |= projection("ffn.up", D, F * (_ups(config) - 1), bias=bias)
    tensors |= projection("ffn.down", F, D, bias=bias)
    return tensors | adapter_tensors(config)


def _kept(config: GPTConfig, own: Pass) -> Kept:
    """What our blocks keep for the backward pass.

    With dropout and GELU it is the 34 N D bytes in bf16 of Korthikanti et al. 2022, equation 1,
    with selective recomputation: attention keeps no weights. Ours are the norms' statistics.
    """
    D, H, G, K = config.width, config.heads, config.key_value_heads, config.head_width
    N, e, F, drops = own.tokens, own.number, config.feed_forward_width, config.dropout > 0
    statistics = 2 * e * N if config.norm == "layernorm" else 4 * N
    mask = N * D if drops else 0  # a byte for each number that dropout may drop
    qkv, turned = e * N * (H + 2 * G) * K, config.positions == "rotary" or config.qk_norm
    written_out = own.written_out and not drops
    # What goes into a projection is kept for the gradient of its weights, if they have one.
    learns = _learning(config)
    attention = e * N * D * ("attention.qkv" in learns) + mask
    if "attention.output" in learns or not written_out:  # torch's kernel keeps what it gives
        attention += e * N * H * K
    if written_out:  # q, k and v of each head, side by side, and the weights
        attention += 3 * e * N * H * K + (4 + e) * own.sequences * H * own.length**2
        attention += qkv if config.qk_norm else 0
    else:
        attention += qkv + (e * N * (H + G) * K if turned else 0)
        attention += 0 if drops else 4 * own.sequences * H * own.length  # the kernel's sums
    attention += 4 * N * (H + G) if config.qk_norm else 0
    ffn = e * N * F * ((3 if config.activation == "swiglu" else 1) + ("ffn.down" in learns)) + mask
    ffn += e * N * D * ("ffn.up" in learns)
    ffn += e * N * _adapter_numbers(config)
    norms = 2 * (e * N * D + statistics)
    places = {"learned": 8 * own.length, "rotary": 2 * 4 * own.length * K}
    outside = 8 * N + places.get(config.positions, 0) + mask + e * N * D + statistics
    if config.adapter is not None:  # nothing in front of what learns first keeps anything
        outside -= 8 * N + (places["learned"] if config.positions == "learned" else 0)
        if config.adapter != "bias":
            outside -= e * N * D + statistics
        if config.adapter != "bias" and "attention.qkv" not in learns:
            outside -= attention - e * N * H * K * ("attention.output" in learns)
    return Kept(config.layers, attention + ffn + norms, e * N * D, outside)
