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
MOST = 64  # texts that are looked through


def draw_pronoun(saved: Checkpoint, texts: Texts, path: Path) -> bool:
    """A picture of what the pronoun of a translation looks at; whether there is such a text.

    The text is the first held-out one with a pronoun that these weights translate as it should be,
    else the first whose translation has a pronoun. One rank calls it.
    """
    model, tokenizer = load(saved)
    if not isinstance(model, Transformer):  # a wrapped one keeps its attention inside
        return False
    end = tokenizer.end_of_text
    chosen = [own for own in texts if any(pronoun in own[1] for pronoun in PRONOUNS)][:MOST]
    if not chosen:
        return False
    rows = [[*tokenizer.encode(source), end] for source, _, _ in chosen]
    found = translate(model, rows, model.config.max_positions, end=end)
    written = [[token for token in best.tokens if token != end] for best, *_ in found]
    shown = [
        (tokenizer.decode(tokens) != wanted, row, tokens[: place + 1])
        for (_, wanted, _), row, tokens in zip(chosen, rows, written, strict=True)
        if (place := _place(tokenizer, tokens)) is not None
    ]
    if not shown:
        return False
    _, row, tokens = min(shown, key=lambda own: own[0])
    _draw(model, tokenizer, row, tokens, path)
    return True


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
        ("in the source", torch.cat(looks[True]), [*pieces(tokenizer, source)]),
        (
            "in what is written so far",
            torch.cat(looks[False]),
            ["begin", *pieces(tokenizer, before[1:])],
        ),
    ]
    draw_looks(fields, heads, f"Where each head looks to write {pronoun!r}").savefig(path, dpi=120)
