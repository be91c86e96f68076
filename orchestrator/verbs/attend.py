"""`orchestrate attend`: who attends to whom in a text, as a picture of every head.

An encoder-decoder has three kinds of attention, each with a picture of its own: of the source to
itself, of the target to itself, and of the target to the source. Reads weights, model config and
tokenizer from a run, checkpoint, exported folder or Hugging Face model alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.terminal import say

if TYPE_CHECKING:
    from torch import nn

    from data import Tokenizer
    from models.attention_maps import Maps

LATEST = "outputs/latest"
MOST_TOKENS = 60  # more would be too small to read
TOP = 3  # tokens that are told of each head


def main(argv: Sequence[str]) -> int:
    """Draw, and tell what a word looks at. Raises ValueError for a wrong request."""
    options = parser().parse_args(argv)
    if options.path == LATEST and not Path(LATEST).exists():
        raise ValueError(f"{LATEST} does not exist; run `orchestrate run` first, or name a run")

    from data import Tokenizer
    from models.configs import HFConfig, TransformerConfig, reads_tokens
    from orchestrator.stages.attention import draw_heads
    from orchestrator.training import checkpoint

    weights = checkpoint.open_weights(checkpoint.located(options.path), options.role)
    for line in checkpoint.told(weights.path, weights.passed_over):
        say(line, sys.stderr)
    if weights.model_config is None or weights.tokenizer is None:
        raise ValueError(f"{weights.path} has no model of text")
    config = reads_tokens(weights.model_config)
    if isinstance(config, HFConfig) and config.task == "seq2seq":
        raise ValueError(
            f"{weights.path} holds a wrapped encoder-decoder ({config.model_type}), whose "
            "attention can't be looked at; name one of ours, or a causal or masked one"
        )
    crossed = isinstance(config, TransformerConfig)
    if options.target is not None and not crossed:
        raise ValueError(
            f"--target is of an encoder-decoder, and {weights.path} holds a model of the family "
            f"{config.family}; leave it out"
        )
    tokenizer = Tokenizer.load(weights.tokenizer)
    model = checkpoint.build_model(weights.reader, config).eval()
    rows = _rows(model, tokenizer, options.text, options.target, crossed)
    for row in rows:
        if len(row) > min(MOST_TOKENS, config.max_positions):
            raise ValueError(
                f"the text is {len(row)} tokens, and at most "
                f"{min(MOST_TOKENS, config.max_positions)} can be drawn; shorten it"
            )
    if options.of is not None and all(_place(tokenizer, r, options.of) is None for r in rows):
        raise ValueError(f"--of={options.of} is no word of the text; name one that is in it")
    maps = _maps(model, rows)
    picture = Path(options.picture)
    for kind, own in _kinds(maps, crossed).items():
        looked_at = rows[-1 if kind == "decoder" else 0]
        # A place of the target looks at the source to write the next token: that is its name.
        lookers = [*rows[1][1:], tokenizer.end_of_text] if kind == "cross" else looked_at
        names, seen = ([_shown(tokenizer, own) for own in row] for row in (lookers, looked_at))
        path = picture.with_stem(f"{picture.stem}-{kind}") if kind else picture
        draw_heads(list(own.values()), names, seen, f"{kind or config.family} attention").savefig(
            path, dpi=110
        )
        print(path)
        if options.of is not None and (at := _place(tokenizer, lookers, options.of)) is not None:
            _tell(options.of, at, own, seen)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of this verb."""
    new = argparse.ArgumentParser(prog="orchestrate attend", description=__doc__)
    new.add_argument(
        "path",
        nargs="?",
        default=LATEST,
        help="run, checkpoint, exported folder, or Hugging Face model [%(default)s]",
    )
    new.add_argument("--role", help="which model; needed where the checkpoint has several")
    new.add_argument("--text", required=True, help="to look at; of an encoder-decoder its source")
    new.add_argument("--target", help="of an encoder-decoder [its own translation of the text]")
    new.add_argument("--of", metavar="WORD", help="also tell what this word looks at in each head")
    new.add_argument("--picture", default="attention.png", metavar="FILE", help="[%(default)s]")
    return new


def _rows(
    model: nn.Module, tokenizer: Tokenizer, text: str, target: str | None, crossed: bool
) -> list[list[int]]:
    """The tokens of what is looked at: a text, or a source and its target."""
    from models.decoding import translate
    from models.transformer import Transformer

    tokens, end = tokenizer.encode(text), tokenizer.end_of_text
    if not tokens:
        raise ValueError("--text is empty; give a text to look at")
    if not crossed:
        return [tokens if _sees_all(model.config) else [tokenizer.start_of_text, *tokens]]
    source = [*tokens, end]
    if target is not None:
        return [source, [end, *tokenizer.encode(target)]]
    assert isinstance(model, Transformer)
    [[found]] = translate(model, [source], model.config.max_positions, end=end)
    return [source, [end, *(token for token in found.tokens if token != end)]]


def _sees_all(config: object) -> bool:
    """Whether a token sees those behind it, too, and none stands for the beginning."""
    from models.configs import BertConfig, HFConfig

    return isinstance(config, BertConfig) or (
        isinstance(config, HFConfig) and config.task == "masked"
    )


def _maps(model: nn.Module, rows: list[list[int]]) -> Maps:
    """The weights (H, T, S) of each attention of a pass over the rows, in the model's order.

    Raises:
        ValueError: the model has no attention that can be looked at.
    """
    import torch

    from models.attention_maps import recorded
    from models.formulas.adapters import virtual_tokens
    from models.gpt import GPT
    from models.hf.wrapped import HFModel

    if isinstance(model, HFModel):
        with torch.no_grad():
            maps = model.attention_maps(torch.tensor(rows))
        return {name: own[0] for name, own in maps.items()}
    with recorded(model) as found, torch.no_grad():
        model(*(torch.tensor([row]) for row in rows))
    if not found:
        raise ValueError("the model has no attention that can be looked at")
    # What goes to virtual tokens, which have no text, is not shown.
    before = virtual_tokens(model.config) if isinstance(model, GPT) else 0
    return {name: own[0, ..., before:] for name, own in found.items()}


def _kinds(maps: Maps, crossed: bool) -> dict[str, Maps]:
    """The attentions by their kind; "" where there is one kind alone."""
    if not crossed:
        return {"": maps}
    kinds: dict[str, Maps] = {"encoder": {}, "decoder": {}, "cross": {}}
    for name, own in maps.items():
        kind = "cross" if ".cross." in name else name.partition(".")[0]
        kinds[kind][name] = own
    return kinds


def _place(tokenizer: Tokenizer, row: Sequence[int], word: str) -> int | None:
    """Where the last token of a word stands in a text, its last time. None: nowhere."""
    for spelled in (f" {word}", word):
        own = tokenizer.encode(spelled)
        for start in range(len(row) - len(own), -1, -1):
            if own and list(row[start : start + len(own)]) == own:
                return start + len(own) - 1
    return None


def _tell(word: str, at: int, maps: Maps, looked_at: Sequence[str]) -> None:
    """Print the tokens that the word at a place takes most of, head by head."""
    for layer, own in enumerate(maps.values(), 1):
        for head, weights in enumerate(own[:, at], 1):
            best = weights.topk(min(TOP, len(looked_at)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            shown = ", ".join(f"{looked_at[n].strip('·')} {value:.2f}" for n, value in pairs)
            print(f"  layer {layer} head {head}: {word} looks at {shown}")


def _shown(tokenizer: Tokenizer, token: int) -> str:
    """A token as text that can be seen."""
    if token == tokenizer.end_of_text:
        return "end"
    return tokenizer.decode([token]).replace(" ", "·").replace("\n", "↵")
