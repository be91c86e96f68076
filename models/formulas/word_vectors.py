"""Cost of word vectors trained by negative sampling."""

from models.configs import WordVectorsConfig
from models.formulas.cost import Cost, Flops, vocabulary


def word_vectors_cost(config: WordVectorsConfig, vocab_size: int | None) -> Cost:
    """Work out the cost; `vocab_size` is the number of words, and wins over the config's.

    Each dot product of two vectors takes 6 operations per number: 2 forward, 2 for the gradient of
    either. The length of a sample is the number of its dot products.

    Raises:
        ValueError: the number of words is not known.
    """
    table = (vocabulary(config, vocab_size), config.width)
    return Cost(
        {"inputs.weight": table, "outputs.weight": table},
        lambda length: Flops(2 * length * config.width),
    )
