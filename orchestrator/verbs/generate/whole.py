"""What models of whole sequences write: translations of an encoder-decoder, fillings of a masked
model, classes of texts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch

from data import Tokenizer
from data.tokenizer import MASK
from models.configs import BertConfig, reads_tokens
from models.decoding import EncoderDecoder, translate
from orchestrator.stages.language.filling import fill, masked_row
from orchestrator.training import checkpoint
from orchestrator.verbs.generate.writing import BETWEEN

if TYPE_CHECKING:
    from torch import nn

    from models.bert import Bert
    from orchestrator.training.checkpoint import Weights

USUAL_BEAMS = 4
USUAL_FILLINGS = 5
ALIKE = ("top_k", "top_p", "min_p", "temperature", "stop", "stop_token", "explain")
"""Options that both kinds have nothing for."""


def write(weights: Weights, prompts: Sequence[str], options: argparse.Namespace) -> None:
    """Print what the model makes of each prompt.

    Raises:
        ValueError: a prompt or an option is nothing for this model.
    """
    config = weights.model_config
    assert config is not None
    assert weights.tokenizer is not None
    tokenizer = Tokenizer.load(weights.tokenizer)
    model = checkpoint.build_model(weights.reader, config).eval()
    if reads_tokens(config).translates:
        _check(options, "an encoder-decoder translates", ALIKE)
        _translate(cast(EncoderDecoder, model), tokenizer, prompts, options)
        return
    beside = (*ALIKE, "beams", "length_penalty", "max_new_tokens", "logprobs")
    if isinstance(config, BertConfig) and config.classes is not None:
        _check(options, "a classifier tells the class of a text", beside)
        _classify(model, config, tokenizer, prompts, options)
    else:
        _check(options, f"a masked model fills {MASK}", beside)
        _fill(cast("Bert", model), tokenizer, prompts, options)


def _check(options: argparse.Namespace, does: str, without: Sequence[str]) -> None:
    """Raise ValueError for an option that has no effect."""
    for name in without:
        if getattr(options, name) not in (None, False, []):
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} has no effect: {does}; leave it out")


def _translate(
    model: EncoderDecoder, tokenizer: Tokenizer, prompts: Sequence[str], options: argparse.Namespace
) -> None:
    longest, end = model.config.max_positions, tokenizer.end_of_text
    rows = [[*tokenizer.encode(prompt), end] for prompt in prompts]
    for prompt, row in zip(prompts, rows, strict=True):
        if not 1 < len(row) <= longest:
            raise ValueError(
                f"--prompt={prompt[:20]!r} has {len(row)} tokens with the end of text, and must "
                f"have 2 to {longest}"
            )
    room = options.max_new_tokens or longest
    if room > longest:
        raise ValueError(
            f"--max-new-tokens={room} is more than the {longest} positions of this model; try "
            f"--max-new-tokens={longest}"
        )
    beams = options.beams or max(USUAL_BEAMS, options.count)
    length_penalty = 1.0 if options.length_penalty is None else options.length_penalty
    found = translate(
        model, rows, room, end=end, beams=beams, best=options.count, length_penalty=length_penalty
    )
    for number, one in enumerate(own for best in found for own in best):
        if number and options.count > 1:
            print(BETWEEN)
        print(tokenizer.decode([token for token in one.tokens if token != end]))
        if options.logprobs:
            print(f"{one.logprob:9.3f}  log-probability of {len(one.tokens)} tokens, in nats")


def _classify(
    model: nn.Module,
    config: BertConfig,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    options: argparse.Namespace,
) -> None:
    """Print the likeliest classes of each prompt, of which the model sees the first tokens."""
    assert config.classes is not None
    count = min(USUAL_FILLINGS if options.count == 1 else options.count, len(config.classes))
    for prompt in prompts:
        row = tokenizer.encode(prompt)[: config.max_positions]
        if not row:
            raise ValueError("--prompt='' has no tokens; give a text to classify")
        with torch.inference_mode():
            chances = model(torch.tensor([row]))[0].float().softmax(0)  # (C,)
        best = chances.topk(count)
        for chance, number in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            print(f"  {chance:7.2%}  {config.classes[number]}")


def _fill(
    model: Bert, tokenizer: Tokenizer, prompts: Sequence[str], options: argparse.Namespace
) -> None:
    count = USUAL_FILLINGS if options.count == 1 else options.count
    for prompt in prompts:
        row = masked_row(tokenizer, prompt)
        if len(row) > model.config.max_positions:
            raise ValueError(
                f"--prompt={prompt[:20]!r} has {len(row)} tokens, this model has "
                f"{model.config.max_positions} positions; shorten it"
            )
        found, text = fill(model, tokenizer, row, count)
        for number, one in enumerate(found, 1):
            print(f"{MASK} number {number}:")
            for token, chance in zip(one.tokens, one.chances, strict=True):
                print(f"  {chance:7.2%}  {token!r}")
        print(text)
