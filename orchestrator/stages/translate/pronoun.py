"""Which noun a French pronoun looks at, in a held-out sentence and its translation.

H heads, S source tokens, T target tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from data import Tokenizer
from models.attention_maps import recorded
from models.decoding import translate
from models.transformer import Transformer
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.stages.attention import draw_looks
from orchestrator.stages.translate.scoring import Texts, load, pieces

PICTURE = "pronoun.png"
PRONOUNS = (" il ", " elle ")


def draw_pronoun(saved: Checkpoint, texts: Texts, path: Path) -> bool:
    """A picture of what the pronoun of a translation looks at; whether there is such a text.

    The text is the first held-out one that should have a pronoun and has one, as translated by
    these weights, token by token. One rank calls it.
    """
    model, tokenizer = load(saved)
    if not isinstance(model, Transformer):  # a wrapped one keeps its attention inside
        return False
    end = tokenizer.end_of_text
    for source, wanted, _ in texts:
        if not any(pronoun in wanted for pronoun in PRONOUNS):
            continue
        row = [*tokenizer.encode(source), end]
        [[found]] = translate(model, [row], model.config.max_positions, end=end)
        tokens = [token for token in found.tokens if token != end]
        place = _place(tokenizer, tokens)
        if place is not None:
            _draw(model, tokenizer, row, tokens[: place + 1], path)
            return True
    return False


def _place(tokenizer: Tokenizer, tokens: Sequence[int]) -> int | None:
    """Where the pronoun of a text begins among its tokens. None: it has none."""
    text = tokenizer.decode(tokens)
    for place in range(len(tokens)):
        if text.removeprefix(tokenizer.decode(tokens[:place])).startswith(PRONOUNS):
            return place
    return None


def _draw(
    model: Transformer, tokenizer: Tokenizer, source: list[int], tokens: list[int], path: Path
) -> None:
    """What each head looked at to write the last of tokens."""
    before = [tokenizer.end_of_text, *tokens[:-1]]
    with recorded(model) as maps, torch.no_grad():
        model(torch.tensor([source]), torch.tensor([before]))
    looks: dict[bool, list[Tensor]] = {True: [], False: []}
    for name, weights in maps.items():
        if name.startswith("decoder."):
            looks[".cross." in name].append(weights[0, :, -1])  # (H, S) or (H, T)
    layers = len(looks[True])
    heads = [
        f"layer {layer} head {head}"
        for layer in range(1, layers + 1)
        for head in range(1, model.config.heads + 1)
    ]
    pronoun = tokenizer.decode(tokens[-1:]).strip()
    fields = [
        ("in the source", torch.cat(looks[True]), [*pieces(tokenizer, source[:-1]), "end"]),
        (
            "in what is written so far",
            torch.cat(looks[False]),
            ["begin", *pieces(tokenizer, before[1:])],
        ),
    ]
    draw_looks(fields, heads, f"Where each head looks to write {pronoun!r}").savefig(path, dpi=120)
