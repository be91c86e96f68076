"""`orchestrate generate`: write text with the model of a run, checkpoint or exported folder.

Reads weights, model config and tokenizer from there alone: no Ray, no DeepSpeed.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from orchestrator.terminal import say

LATEST = "outputs/latest"
USUAL_TOKENS = 100


def main(argv: Sequence[str]) -> int:
    """Print the continuations; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    check(options)

    import torch

    from data import Tokenizer
    from models.generate import generate
    from orchestrator.training import checkpoint

    weights = checkpoint.open_weights(Path(options.path), options.role)
    for line in checkpoint.told(weights.path, weights.passed_over):
        say(line, sys.stderr)
    model = checkpoint.build_gpt(weights.reader, weights.model_config, weights.path)
    if weights.tokenizer is None:
        raise ValueError(f"{weights.path} has no tokenizer: its model was not trained on text")
    tokenizer = Tokenizer.load(weights.tokenizer)
    prompt = options.prompt if options.prompt is not None else _standard_input()
    start = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    tokens = generate(
        model,
        torch.tensor([start] * options.count),
        new_tokens(len(start), model.config.max_positions, options.max_new_tokens),
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        stop_tokens=(tokenizer.end_of_text,),
        generator=torch.Generator().manual_seed(options.seed),
    )
    for number, row in enumerate(tokens[:, 1:].tolist()):
        if number:
            print("\n---")
        print(tokenizer.decode([token for token in row if token != tokenizer.end_of_text]))
    return 0


def new_tokens(prompt: int, longest: int, wanted: int | None) -> int:
    """How many tokens to write after `prompt` tokens with a model of `longest` positions.

    Raises:
        ValueError: the prompt fills the model, or more was asked for than fits.
    """
    room = longest - prompt
    if room < 1:
        raise ValueError(
            f"--prompt has {prompt} tokens with the start of text, this model has {longest} "
            f"positions; shorten it to {longest - 1} tokens or less"
        )
    if wanted is not None and wanted > room:
        raise ValueError(
            f"--max-new-tokens={wanted} after a prompt of {prompt} tokens is more than the "
            f"{longest} positions of this model; try --max-new-tokens={room}"
        )
    return wanted if wanted is not None else min(USUAL_TOKENS, room)


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate generate", description=__doc__)
    new.add_argument(
        "path",
        nargs="?",
        default=LATEST,
        help="run folder, checkpoint or exported folder [%(default)s]",
    )
    new.add_argument("--role", help="which model; needed where the checkpoint has several")
    new.add_argument("--prompt", help="text to continue; without it, standard input")
    new.add_argument(
        "--max-new-tokens", type=int, metavar="N", help=f"[{USUAL_TOKENS}, or as many as fit]"
    )
    new.add_argument("--temperature", type=float, default=0.8, help="0 is greedy [%(default)s]")
    new.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    new.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest tokens that sum to P"
    )
    new.add_argument("--count", type=int, default=1, help="number of texts [%(default)s]")
    new.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    return new


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for a number that makes no sense, or a path with nothing there."""
    for name, least in (("max_new_tokens", 1), ("count", 1), ("top_k", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag}={value} must be at least {least}; try --{flag}={least}")
    if not 0 <= options.temperature < math.inf:
        raise ValueError(
            f"--temperature={options.temperature} must be at least 0 and finite; "
            "try --temperature=0.8"
        )
    if options.top_p is not None and not 0 < options.top_p <= 1:
        raise ValueError(f"--top-p={options.top_p} must be above 0 and at most 1; try --top-p=0.95")
    for name in ("top_k", "top_p", "seed"):
        value, flag = getattr(options, name), name.replace("_", "-")
        if value and options.temperature == 0:
            raise ValueError(
                f"--{flag}={value} has no effect: --temperature=0 takes the likeliest token; leave "
                "one of the two out"
            )
    if options.path == LATEST and not Path(LATEST).exists():
        raise ValueError(f"{LATEST} does not exist; run `orchestrate run` first, or name a run")


def _standard_input() -> str:
    if sys.stdin.isatty():
        say("type the text to continue, then Ctrl-D", sys.stderr)
    return sys.stdin.read()
