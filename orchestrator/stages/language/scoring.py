"""How well a model predicts text: loss, perplexity and bits per byte."""

import math
from collections.abc import Mapping

from orchestrator.stages.result import Table

LABELS = {
    "unigram": "bytes, add-one unigram",
    "bigram": "bytes, add-one bigram",
    "trigram": "bytes, add-one trigram",
    "gzip": "gzip -9",
    "xz": "xz -9",
}


def bits_per_byte(nats: float, size: int) -> float:
    """Nats of all tokens of a text, in bits, over its bytes; independent of the tokenizer."""
    return nats / math.log(2) / size


def perplexity(loss: float) -> float:
    """exp of a loss in nats per token; infinite where that exceeds a float (from 710 nats on)."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf


def notices(ours: float, baselines: Mapping[str, float]) -> tuple[str, ...]:
    """A sentence for a model that predicts text worse than counts of bytes, in bits per byte."""
    for name, what in (("unigram", "single bytes"), ("bigram", "pairs of bytes")):
        if name in baselines and ours > baselines[name]:
            return (
                f"this model predicts text worse ({ours:.3f} bits per byte) than mere counts of "
                f"{what} ({baselines[name]:.3f}), so it has learned little; train for more steps "
                "(stage.steps), and if its loss does not fall, change optim.learning_rate",
            )
    return ()


def comparison(ours: float, baselines: Mapping[str, float]) -> Table:
    """Bits per byte of the validation text, best first; lower is better."""
    rows = sorted([("this model", ours), *baselines.items()], key=lambda row: row[1])
    return Table(
        "bits_per_byte",
        ("validation text", "bits per byte"),
        tuple((LABELS.get(name, name), f"{bits:.3f}") for name, bits in rows),
        bold=[name for name, _ in rows].index("this model"),
    )
