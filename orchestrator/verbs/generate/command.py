"""`orchestrate generate`: write text with the model of a run, checkpoint or folder.

An encoder-decoder translates the prompt; a masked model fills each <mask> in it; a classifier tells
its class. Reads weights, model config and tokenizer from there alone: no Ray, no DeepSpeed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.terminal import say

if TYPE_CHECKING:
    from data import Tokenizer

LATEST = "outputs/latest"
USUAL_TOKENS = 100
USUAL_TEMPERATURE = 0.8
LEAST = {"max_new_tokens": 1, "count": 1, "top_k": 1, "beams": 1, "seed": 0}


def main(argv: Sequence[str]) -> int:
    """Print the continuations; returns the exit code. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    check(options)

    from data import Tokenizer
    from models.configs import BlocksConfig, HFConfig
    from models.decoding import Sampling
    from models.language import LanguageModel
    from orchestrator.training import checkpoint
    from orchestrator.verbs.generate import whole
    from orchestrator.verbs.generate.explaining import explain_and_print
    from orchestrator.verbs.generate.writing import search_and_print, write_and_print

    path = checkpoint.located(options.path, allow_pickle=options.allow_pickle)
    weights = checkpoint.open_weights(path, options.role)
    for line in checkpoint.told(weights.path, weights.passed_over):
        say(line, sys.stderr)
    config = weights.model_config
    if isinstance(config, BlocksConfig) or (isinstance(config, HFConfig) and config.translates):
        prompts = options.prompt if options.prompt is not None else [_standard_input()]
        whole.write(weights, prompts, options)
        return 0
    model = checkpoint.build_writer(weights.reader, weights.model_config, weights.path)
    if weights.tokenizer is None:
        raise ValueError(f"{weights.path} has no tokenizer.json, and its tokens can't be known")
    tokenizer = Tokenizer.load(weights.tokenizer)
    prompts = options.prompt if options.prompt is not None else [_standard_input()]
    rows = [[tokenizer.start_of_text, *tokenizer.encode(prompt)] for prompt in prompts]
    longest = max(map(len, rows))
    room = new_tokens(longest, model.config.max_positions, options.max_new_tokens)
    stops = {tokenizer.end_of_text, *(stop_token(tokenizer, name) for name in options.stop_token)}
    sampling = Sampling(
        repetition_penalty=options.repetition_penalty,
        temperature=USUAL_TEMPERATURE if options.temperature is None else options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        min_p=options.min_p,
    )
    if options.beams is not None:
        search_and_print(model, tokenizer, rows, room, stops, options)
    elif options.explain:
        if not isinstance(model, LanguageModel):
            raise ValueError(
                "--explain is for families of ours, such as gpt: others keep their numbers inside"
            )
        explain_and_print(model, tokenizer, rows[0], room, sampling, stops, options.seed)
    else:
        write_and_print(model, tokenizer, rows, room, sampling, stops, options)
    return 0


def stop_token(tokenizer: Tokenizer, name: str) -> int:
    """The token that --stop-token names: by its number, or by its text.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    if name.isdecimal():
        if int(name) < tokenizer.vocab_size:
            return int(name)
        raise ValueError(
            f"--stop-token={name} must be below {tokenizer.vocab_size}, the size of the vocabulary"
        )
    special = None if tokenizer.bpe is None else tokenizer.bpe.token_to_id(name)
    if special is not None:
        return int(special)
    tokens = tokenizer.encode(name)
    if len(tokens) != 1:
        raise ValueError(
            f"--stop-token={name!r} is {len(tokens)} tokens of this tokenizer, not one; to end "
            f"before a text, however it is cut, try --stop={name!r}"
        )
    return tokens[0]


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
        help="run folder, checkpoint, URL of either, exported folder, Hugging Face model or GGUF "
        "file [%(default)s]",
    )
    new.add_argument(
        "--allow-pickle", action="store_true", help="read weights of others that are a pickle"
    )
    new.add_argument("--role", help="which model; needed where the checkpoint has several")
    new.add_argument(
        "--prompt",
        action="append",
        help="text to continue, '' for a text from its start; give several times for several "
        "texts; without it, standard input",
    )
    new.add_argument(
        "--max-new-tokens", type=int, metavar="N", help=f"[{USUAL_TOKENS}, or as many as fit]"
    )
    new.add_argument("--temperature", type=float, help=f"0 is greedy [{USUAL_TEMPERATURE}]")
    new.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest tokens")
    new.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the likeliest tokens that sum to P"
    )
    new.add_argument(
        "--min-p", type=float, metavar="P", help="draw from tokens P times as likely as the best"
    )
    new.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="X",
        help="above 1 makes tokens that are there already less likely [%(default)s]",
    )
    new.add_argument("--beams", type=int, metavar="W", help="search for the likeliest text with W")
    new.add_argument(
        "--length-penalty",
        type=float,
        metavar="X",
        help="beams are compared by log-probability / length^X; above 1 favours long ones [1]",
    )
    new.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text"
    )
    new.add_argument(
        "--stop-token",
        action="append",
        default=[],
        metavar="TOKEN",
        help="end with this token, named by its text or number; end of text always is one",
    )
    new.add_argument("--logprobs", action="store_true", help="print how likely each token was")
    new.add_argument(
        "--explain", action="store_true", help="show step by step how each token is chosen"
    )
    new.add_argument("--count", type=int, default=1, help="texts for each prompt [%(default)s]")
    new.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    return new


def check(options: argparse.Namespace) -> None:
    """Raise ValueError for a number that makes no sense, or a path with nothing there."""
    for name, least in LEAST.items():
        value = getattr(options, name)
        if value is not None and value < least:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag}={value} must be at least {least}; try --{flag}={least}")
    if options.temperature is not None and not 0 <= options.temperature < math.inf:
        raise ValueError(
            f"--temperature={options.temperature} must be at least 0 and finite; "
            f"try --temperature={USUAL_TEMPERATURE}"
        )
    for name, usual in (("top_p", 0.95), ("min_p", 0.05)):
        value, flag = getattr(options, name), name.replace("_", "-")
        if value is not None and not 0 < value <= 1:
            raise ValueError(
                f"--{flag}={value} must be above 0 and at most 1; try --{flag}={usual}"
            )
    if not 0 < options.repetition_penalty < math.inf:
        raise ValueError(
            f"--repetition-penalty={options.repetition_penalty} must be above 0 and finite; "
            "try --repetition-penalty=1.2"
        )
    if options.length_penalty is not None and not math.isfinite(options.length_penalty):
        raise ValueError(
            f"--length-penalty={options.length_penalty} must be finite; try --length-penalty=1"
        )
    if "" in options.stop:
        raise ValueError("--stop='' would end every text before it begins; leave it out")
    _check_together(options)
    if options.path == LATEST and not Path(LATEST).exists():
        raise ValueError(f"{LATEST} does not exist; run `orchestrate run` first, or name a run")


def _check_together(options: argparse.Namespace) -> None:
    """Raise ValueError for an option that has no effect beside another."""
    drawing = ("top_k", "top_p", "min_p", "seed")
    useless: list[tuple[str, tuple[str, ...]]] = []
    if options.beams is not None:
        others = (*drawing, "temperature", "stop", "explain", "repetition_penalty")
        useless.append((f"--beams={options.beams} searches for the likeliest", others))
        if options.count > options.beams:
            raise ValueError(
                f"--count={options.count} is more than --beams={options.beams} can find; "
                f"try --beams={options.count}"
            )
    else:
        if options.length_penalty is not None:
            raise ValueError("--length-penalty has no effect without --beams; try --beams=4")
        if options.temperature == 0:
            useless.append(("--temperature=0 takes the likeliest token", drawing))
    if options.explain:
        if options.count > 1 or len(options.prompt or ()) > 1:
            raise ValueError("--explain shows one text; leave --count out, and give one --prompt")
        useless.append(("--explain shows the likeliest tokens", ("logprobs", "stop")))
    for reason, names in useless:
        for name in names:
            value, flag = getattr(options, name), name.replace("_", "-")
            if value not in (None, False, []) and (name, value) != ("repetition_penalty", 1.0):
                typed = flag if value is True else f"{flag}={value}"
                raise ValueError(f"--{typed} has no effect: {reason}; leave one of the two out")


def _standard_input() -> str:
    """The prompt that was not typed with the command. Raises ValueError if there is none."""
    if sys.stdin.isatty():
        say("type the text to continue, then Ctrl-D", sys.stderr)
    text = sys.stdin.read()
    if not text:
        raise ValueError(
            "the prompt, read from standard input, is empty; give a text to continue, "
            "or --prompt='' for a text from its start"
        )
    return text
