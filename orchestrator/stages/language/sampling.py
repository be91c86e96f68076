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
    seeds = row_seeds(seed, len(rows))
    written = continued(engine, rows, ends, stop=tokenizer.end_of_text, seeds=seeds)
    return [_text(tokenizer, row) for row in written]


def continued(
    engine: Engine,
    prompts: Sequence[Sequence[int]],
    ends: Sequence[int],
    *,
    stop: int,
    seeds: Sequence[int],
    sampling: Sampling = SAMPLING,
) -> list[list[int]]:
    """Each prompt with what the weights in training write behind it. Every rank calls it.

    Args:
        engine: of a model that writes text.
        prompts: rows of tokens.
        ends: most tokens of each row with its prompt.
        stop: the token that ends a row.
        seeds: of the draws of each row.
        sampling: how a token is chosen.
    """
    rows = [list(prompt) for prompt in prompts]
    with evaluating(engine):
        while open_rows := [
            number
            for number, (row, end) in enumerate(zip(rows, ends, strict=True))
            if len(row) < end and (len(row) == len(prompts[number]) or row[-1] != stop)
        ]:
            longest = max(map(len, rows))
            # What stands behind a text is never seen by its own tokens.
            padded = [row + [stop] * (longest - len(row)) for row in rows]
            logits = engine.forward(torch.tensor(padded, device=engine.device))  # (B, T, V)
            drawn = [
                draw(
                    logits[number, len(rows[number]) - 1][None].float().cpu(),
                    sampling,
                    seeds[number : number + 1],
                    len(rows[number]) - len(prompts[number]),
                )
                for number in open_rows
            ]
            # Rank 0 decides: all must make the same number of passes.
            mine = list(map(int, drawn)) if distributed.rank() == 0 else [0] * len(open_rows)
            for number, token in zip(
                open_rows, distributed.sum_over_ranks(mine, engine.device), strict=True
            ):
                rows[number].append(int(token))
    return rows


def _text(tokenizer: Tokenizer, row: Sequence[int]) -> str:
    return tokenizer.decode([token for token in row if token != tokenizer.end_of_text])
