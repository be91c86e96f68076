"""Cost of models of whole-sequence blocks.

D model width, F feed-forward width, T tokens of a sample, V vocabulary, C classes.
"""

from models.configs import BertConfig, BlocksConfig, TransformerConfig
from models.formulas.cost import (
    Cost,
    Flops,
    Kept,
    Pass,
    Shape,
    matrices,
    norm,
    projection,
    vocabulary,
)


def transformer_cost(config: TransformerConfig, vocab_size: int | None) -> Cost:
    """Work out the cost of an encoder-decoder; `vocab_size` wins over the config's.

    A sample has T source and T target tokens. Training takes 6 operations per matrix weight and
    token that meets it, and 12 D T per token for each attention, which is not halved for being
    causal.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D, layers = vocabulary(config, vocab_size), config.width, config.layers
    tensors: dict[str, Shape] = {"embedding.weight": (V, D)}
    if not config.shared_embedding:
        tensors |= {"target_embedding.weight": (V, D), "head.weight": (V, D)}
    tensors |= _blocks(config, "encoder", ("attention",))
    tensors |= _blocks(config, "decoder", ("attention", "cross"))
    if config.norm_order == "pre":
        tensors |= norm("encoder_norm", D) | norm("decoder_norm", D)
    multiplied = matrices(tensors, "encoder.", "decoder.")

    def flops(T: int) -> Flops:
        attention = 3 * 4 * layers * D * T * T
        blocks = 2 * T * multiplied + attention
        return Flops(blocks + 2 * T * V * D, attention, blocks)

    def kept(own: Pass) -> Kept:
        both = _kept(config, own, 1) + _kept(config, own, 2)
        if config.dropout or own.written_out:
            both += own.length**2  # what each target token sees
        encoded = own.number * own.tokens * D  # for every block of the decoder
        return Kept(layers, both, 0, encoded + 2 * _placed(config, own))

    # Of the target; keys and values of the source come on top, once.
    return Cost(tensors, flops, cache=lambda T: 2 * 2 * layers * D * T, kept=kept)


def bert_cost(config: BertConfig, vocab_size: int | None) -> Cost:
    """Work out the cost of an encoder for masked tokens or classes; `vocab_size` wins over theirs.

    As for an encoder-decoder; the output layer of masked tokens is counted for all tokens, though
    only masked ones go through it, and that of classes once for a text.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D, layers = vocabulary(config, vocab_size), config.width, config.layers
    tensors: dict[str, Shape] = {"embedding.weight": (V, D)}
    tensors["position_embedding.weight"] = (config.max_positions, D)
    if config.segments:
        tensors["segment_embedding.weight"] = (config.segments, D)
    tensors |= norm("embedding_norm", D) | _blocks(config, "blocks", ("attention",))
    if config.norm_order == "pre":
        tensors |= norm("norm", D)
    multiplied = matrices(tensors, "blocks.")
    if config.classes is None:
        tensors |= {"head.bias": (V,)} | projection("head.dense", D, D) | norm("head.norm", D)
        of_token, of_text = D * D + V * D, 0
    else:
        tensors |= projection("classifier", D, len(config.classes))
        of_token, of_text = 0, D * len(config.classes)

    def flops(T: int) -> Flops:
        attention = 4 * layers * D * T * T
        blocks = 2 * T * multiplied + attention
        return Flops(blocks + 2 * T * of_token + 2 * of_text, attention, blocks)

    def kept(own: Pass) -> Kept:
        outside = _placed(config, own) + 8 * own.length + _norm(config, own)
        return Kept(layers, _kept(config, own, 1), 0, outside)

    return Cost(tensors, flops, kept=kept)


def _blocks(config: BlocksConfig, name: str, attentions: tuple[str, ...]) -> dict[str, Shape]:
    """The tensors of all blocks of a side."""
    D, F = config.width, config.feed_forward_width
    own: dict[str, Shape] = {}
    for attention in attentions:
        layer = f"{attention}.layer"
        if attention == "cross":
            own |= projection(f"{layer}.query", D, D) | projection(f"{layer}.key_value", D, 2 * D)
        else:
            own |= projection(f"{layer}.qkv", D, 3 * D)
        own |= projection(f"{layer}.output", D, D) | norm(f"{attention}.norm", D)
    own |= projection("ffn.layer.up", D, F) | projection("ffn.layer.down", F, D)
    own |= norm("ffn.norm", D)
    return {f"{name}.{n}.{key}": s for n in range(config.layers) for key, s in own.items()}


def _kept(config: BlocksConfig, own: Pass, attentions: int) -> int:
    """What a block with so many attentions keeps."""
    D, F, N, e = config.width, config.feed_forward_width, own.tokens, own.number
    B, H, T, drops = own.sequences, config.heads, own.length, config.dropout > 0
    residuals = attentions + 1
    norms = residuals * (_norm(config, own) + (N * D if drops else 0))
    attention = e * N * (D + 3 * D + D)  # into the projections; q, k and v
    if drops or own.written_out:  # weights in fp32, what is left of them, and a mask
        kept = 4 * B * H * T * T
        masks = B * H * T * T if drops else 0
        attention += kept + masks + (e * B * H * T * T if drops or own.half else 0)
    else:
        attention += 4 * B * H * T
    ffn = e * N * (D + F * (1 if config.activation == "relu" else 2))
    return norms + attentions * attention + ffn


def _norm(config: BlocksConfig, own: Pass) -> int:
    """What a norm keeps: its input, and mean and spread of each token."""
    return own.number * own.tokens * (config.width + 2)


def _placed(config: BlocksConfig, own: Pass) -> int:
    """What one side keeps outside of its blocks: tokens, a mask, the input of a last norm."""
    mask = own.tokens * config.width if config.dropout > 0 else 0
    return 8 * own.tokens + mask + (_norm(config, own) if config.norm_order == "pre" else 0)
