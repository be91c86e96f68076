"""Cost of models of whole-sequence blocks.

D model width, F feed-forward width, T tokens of a sample, V vocabulary, C classes.
"""

from models.configs import BertConfig, BlocksConfig, TransformerConfig
from models.formulas.cost import Cost


def transformer_cost(config: TransformerConfig, vocab_size: int | None) -> Cost:
    """Work out the cost of an encoder-decoder; `vocab_size` wins over the config's.

    A sample has T source and T target tokens. Training takes 6 operations per matrix weight and
    token that meets it, and 12 D T per token for each attention, which is not halved for being
    causal.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D, layers = _vocabulary(config, vocab_size), config.width, config.layers
    attention, ffn = 4 * D * D, 2 * D * config.feed_forward_width
    encoder, decoder = attention + ffn, 2 * attention + ffn
    tables = V * D * (1 if config.shared_embedding else 3)
    final = 2 * 2 * D if config.norm_order == "pre" else 0
    biases = layers * (_block_vectors(config, 1) + _block_vectors(config, 2))
    multiplied = layers * (encoder + decoder) + V * D
    return Cost(
        parameters=layers * (encoder + decoder) + biases + tables + final,
        largest_layer=max(V * D, _largest_projection(config)),
        flops_per_sample=lambda T: T * (6 * multiplied + 3 * 12 * layers * D * T),
    )


def bert_cost(config: BertConfig, vocab_size: int | None) -> Cost:
    """Work out the cost of an encoder for masked tokens or classes; `vocab_size` wins over theirs.

    As for an encoder-decoder; the output layer of masked tokens is counted for all tokens, though
    only masked ones go through it, and that of classes once for a text.

    Raises:
        ValueError: no vocabulary size is known.
    """
    V, D, layers = _vocabulary(config, vocab_size), config.width, config.layers
    block = 4 * D * D + 2 * D * config.feed_forward_width
    if config.classes is None:
        head, own, of_token, of_text = D * D + D + 2 * D + V, V, D * D + V * D, 0
    else:
        C = len(config.classes)
        head, own, of_token, of_text = (D + 1) * C, (D + 1) * C, 0, D * C
    final = 2 * D if config.norm_order == "pre" else 0
    vectors = layers * _block_vectors(config, 1) + 2 * D + final
    multiplied = layers * block + of_token
    return Cost(
        parameters=layers * block
        + vectors
        + (V + config.max_positions + config.segments) * D
        + head,
        largest_layer=max(V * D, config.max_positions * D, own, _largest_projection(config)),
        flops_per_sample=lambda T: T * (6 * multiplied + 12 * layers * D * T) + 6 * of_text,
    )


def _vocabulary(config: BlocksConfig, vocab_size: int | None) -> int:
    V = config.vocab_size if vocab_size is None else vocab_size
    if V is None:
        raise ValueError("model.vocab_size is not set; give it, or vocab_size, to count parameters")
    return V


def _block_vectors(config: BlocksConfig, attentions: int) -> int:
    """Biases and norms of a block with so many attentions."""
    D = config.width
    return attentions * (4 * D + 2 * D) + config.feed_forward_width + D + 2 * D


def _largest_projection(config: BlocksConfig) -> int:
    """Weights and biases of the widest projection of a block."""
    D, F = config.width, config.feed_forward_width
    return max((D + 1) * 3 * D, (D + 1) * F, (F + 1) * D)
