"""`orchestrate generate`: write text with the model of a run or checkpoint.

Reads weights, model config and tokenizer from the checkpoint alone: no Ray, no DeepSpeed.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str]) -> int:
    """Print the continuations; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    check(options)

    import torch

    from data import Tokenizer
    from models.generate import generate
    from orchestrator.training import checkpoint

    found = checkpoint.find(Path(options.path))
    tokenizer = Tokenizer.load(found.path / checkpoint.TOKENIZER)
    model = checkpoint.load_gpt(found)
    prompt = options.prompt if options.prompt is not None else sys.stdin.read()
    start = [tokenizer.end_of_text, *tokenizer.encode(prompt)]
    tokens = generate(
        model,
        torch.tensor([start] * options.count),
        options.max_new_tokens,
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        stop_tokens=(tokenizer.end_of_text,),
        generator=torch.Generator().manual_seed(options.seed),
    )
    for number, row in enumerate(tokens[:, 1:].tolist()):
        if number:
            print("\n---")
        text = [token for token in row if token != tokenizer.end_of_text]
        print(tokenizer.decode(text))
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate generate", description=__doc__)
    new.add_argument(
        "path", nargs="?", default="outputs/latest", help="run folder or checkpoint [%(default)s]"
    )
    new.add_argument("--prompt", help="text to continue; without it, standard input")
    new.add_argument("--max-new-tokens", type=int, default=100, metavar="N", help="[%(default)s]")
    new.add_argument("--temperature", type=float, default=0.8, help="0 is greedy [%(default)s]")
    new.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    new.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest tokens that sum to P"
    )
    new.add_argument("--count", type=int, default=1, help="number of texts [%(default)s]")
    new.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    return new


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for a number that makes no sense."""
    for name, least in (("max_new_tokens", 1), ("count", 1), ("temperature", 0), ("top_k", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag}={value} must be at least {least}; try --{flag}={least}")
    if options.top_p is not None and not 0 < options.top_p <= 1:
        raise ValueError(f"--top-p={options.top_p} must be above 0 and at most 1; try --top-p=0.95")
