"""Bytes of the loss of a language model, whose logits are never whole: see models/loss.py."""

LOGITS_BYTES = {"cpu": 2**27, "cuda": 2**29}
"""Most bytes of fp32 logits that are held at once. Fewer save little, and cost a pass over the
gradient of the head for each chunk."""
SOFTMAX_BYTES = {"cpu": 2**20, "cuda": 2**27}
"""Of the fp32 logits that are taken through softmax and gradient at a time. On a CPU they then stay
in its cache: in bf16 the whole loss of 1,536 tokens and a vocabulary of 4,096 takes 0.65 of the
time. On a GPU what is held in fp32 is a quarter of the chunk."""


def loss_bytes(tokens: int, width: int, vocabulary: int, number: int, device: str) -> int:
    """Bytes at the end of a forward pass: logits of a chunk, gradients of vectors and of the head.

    Args:
        tokens: of the micro-batch.
        width: of the vectors that the head is applied to.
        vocabulary: rows of the head.
        number: bytes of a number in matrix products, 2 or 4.
        device: cpu or cuda.
    """
    row = 4 * vocabulary
    chunk = min(tokens, max(1, LOGITS_BYTES[device] // row))
    softmax = min(chunk, max(1, SOFTMAX_BYTES[device] // row))
    head = vocabulary * width
    # The gradient of the head is added up in fp32, from a part of each chunk in its own precision.
    return (
        chunk * vocabulary * number
        + 2 * softmax * row
        + tokens * width * number
        + ((4 + number) * head if number == 2 or chunk < tokens else 4 * head)
    )


def token_loss_bytes(tokens: int, vocabulary: int, number: int, device: str, kind: str) -> int:
    """Most bytes at once of a loss that tells of each token, of which a chunk is computed again.

    The chunk's logits are fp32, and so is what the softmax makes of them: log-probabilities for
    `losses` (`token_losses`), also probabilities and their products for `scores` (`token_scores`),
    in the backward pass with a gradient of each; `looks` are scores without a backward pass, `told`
    are such losses.

    Args:
        tokens: of the micro-batch.
        vocabulary: rows of the head.
        number: bytes of a number in matrix products, 2 or 4.
        device: cpu or cuda.
        kind: losses, scores, looks or told.
    """
    chunk = min(tokens, max(1, LOGITS_BYTES[device] // (4 * vocabulary)))
    held = {"losses": 3 * 4, "scores": 5 * 4, "looks": 3 * 4 + number, "told": 2 * 4 + number}
    return held[kind] * chunk * vocabulary
