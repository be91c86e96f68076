"""Texts that a saved model writes, as a look at what was learned."""

from collections.abc import Sequence

import torch

from data import Tokenizer
from models.generate import generate
from orchestrator.training import checkpoint
from orchestrator.training.checkpoint import Checkpoint


def sample(
    saved: Checkpoint,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    most_tokens: int,
    seed: int,
) -> list[str]:
    """What the saved weights write after each prompt, with it; reads the checkpoint anew.

    Args:
        saved: holds a model that writes text.
        tokenizer: the one that it was trained with.
        prompts: texts to continue.
        new_tokens: tokens written after each, if `most_tokens` of both leave room.
        most_tokens: tokens of a prompt and its continuation.
        seed: of the draws.
    """
    model = checkpoint.load_gpt(saved)
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for prompt in prompts:
        tokens = torch.tensor([[tokenizer.end_of_text, *tokenizer.encode(prompt)]])
        written = generate(
            model,
            tokens,
            min(new_tokens, most_tokens - tokens.shape[1]),
            temperature=0.6,
            top_p=0.95,
            stop_tokens=(tokenizer.end_of_text,),
            generator=generator,
        )
        ids = [int(token) for token in written[0, 1:] if token != tokenizer.end_of_text]
        texts.append(tokenizer.decode(ids))
    return texts
