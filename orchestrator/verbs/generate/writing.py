"""Texts on the screen: drawn ones as they come, or the likeliest that a search finds."""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Sequence

from data import Tokenizer
from models.decoding import Sampling, TextModel, TextStream, beam_search, row_seeds, stream

BETWEEN = "\n---"  # two texts


def write_and_print(
    model: TextModel,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[int]],
    room: int,
    sampling: Sampling,
    stops: Collection[int],
    options: argparse.Namespace,
) -> None:
    """Draw texts, all at once; a single one is printed as it comes."""
    seeds = row_seeds(options.seed, options.count) * len(rows)
    rows = [row for row in rows for _ in range(options.count)]
    texts = [TextStream(tokenizer.decode, options.stop) for _ in rows]
    parts = [[tokenizer.decode(row[1:])] for row in rows]
    likely: list[list[tuple[int, float]]] = [[] for _ in rows]
    alone = len(rows) == 1
    if alone:
        print(parts[0][0], end="", flush=True)

    def halt(number: int, token: int) -> bool:
        """Whether a stop string has ended the text."""
        if token in stops:
            return True
        piece = texts[number].push(token)
        parts[number].append(piece)
        if alone:
            print(piece, end="", flush=True)
        return texts[number].stopped

    for step in stream(
        model, rows, room, sampling,
        seeds=seeds, stop_tokens=stops, halt=halt, logprobs=options.logprobs,
    ):  # fmt: skip
        if step.logprobs is not None:
            for number in step.running.nonzero()[:, 0].tolist():
                likely[number].append((int(step.tokens[number]), float(step.logprobs[number])))
    for number, text in enumerate(texts):
        if number:
            print(BETWEEN)
        rest = text.finish()
        print(rest if alone else "".join((*parts[number], rest)))
        if options.logprobs:
            _logprobs(tokenizer, likely[number])


def search_and_print(
    model: TextModel,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[int]],
    room: int,
    stops: Collection[int],
    options: argparse.Namespace,
) -> None:
    """Search for the likeliest texts after each prompt, and print the `count` best."""
    length_penalty = 1.0 if options.length_penalty is None else options.length_penalty
    first = True
    for row in rows:
        for found in beam_search(
            model, row, room,
            beams=options.beams, best=options.count, length_penalty=length_penalty,
            stop_tokens=stops,
        ):  # fmt: skip
            if not first:
                print(BETWEEN)
            first = False
            new = [token for token in found.tokens if token not in stops]
            print(tokenizer.decode([*row[1:], *new]))
            if options.logprobs:
                count = len(found.tokens)
                print(f"{found.logprob:9.3f}  log-probability of {count} new tokens, in nats")
                print(f"{found.score:9.3f}  score: divided by {count}^{length_penalty:g}")


def _logprobs(tokenizer: Tokenizer, likely: list[tuple[int, float]]) -> None:
    """Print each new token with its log-probability, then their sum."""
    for token, logprob in likely:
        print(f"{logprob:9.3f}  {tokenizer.decode([token])!r}")
    print(f"{math.fsum(logprob for _, logprob in likely):9.3f}  in all, in nats")
