"""Texts that a saved model writes, as a look at what was learned."""

from collections.abc import Sequence

import torch

from data import Tokenizer
from models.decoding import Sampling, draw, generate, row_seeds
from orchestrator.training import checkpoint, distributed
from orchestrator.training.checkpoint import Checkpoint
from orchestrator.training.engine import Engine
from orchestrator.training.loop import evaluating

SAMPLING = Sampling(temperature=0.6, top_p=0.95)


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
    model = checkpoint.load_writer(saved)
    texts = []
    for prompt, own_seed in zip(prompts, row_seeds(seed, len(prompts)), strict=True):
        row = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
        written = generate(
            model,
            [row],
            min(new_tokens, most_tokens - len(row)),
            SAMPLING,
            seeds=[own_seed],
            stop_tokens=(tokenizer.end_of_text,),
        )
        texts.append(_text(tokenizer, row + written.rows()[0]))
    return texts


def sample_in_training(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    *,
    new_tokens: int,
    most_tokens: int,
    seed: int,
) -> list[str]:
    """As `sample`, by the weights in training. Every rank calls it and gets the same.

    Each token takes a forward pass over the whole text: only such passes work on a model in shards.
    """
    rows = [[tokenizer.end_of_text, *tokenizer.encode(prompt)] for prompt in prompts]
    ends = [min(len(row) + new_tokens, most_tokens) for row in rows]
    prompts_end, seeds = [len(row) for row in rows], row_seeds(seed, len(rows))
    with evaluating(engine):
        while open_rows := [
            number
            for number, (row, end) in enumerate(zip(rows, ends, strict=True))
            if len(row) < end and (len(row) == 1 or row[-1] != tokenizer.end_of_text)
        ]:
            longest = max(map(len, rows))
            # What stands behind a text is never seen by its own tokens.
            padded = [row + [tokenizer.end_of_text] * (longest - len(row)) for row in rows]
            logits = engine.forward(torch.tensor(padded, device=engine.device))  # (B, T, V)
            drawn = [
                draw(
                    logits[number, len(rows[number]) - 1][None].float().cpu(),
                    SAMPLING,
                    seeds[number : number + 1],
                    len(rows[number]) - prompts_end[number],
                )
                for number in open_rows
            ]
            # Rank 0 decides: all must make the same number of passes.
            mine = list(map(int, drawn)) if distributed.rank() == 0 else [0] * len(open_rows)
            for number, token in zip(
                open_rows, distributed.sum_over_ranks(mine, engine.device), strict=True
            ):
                rows[number].append(int(token))
    return [_text(tokenizer, row) for row in rows]


def _text(tokenizer: Tokenizer, row: Sequence[int]) -> str:
    return tokenizer.decode([token for token in row if token != tokenizer.end_of_text])
