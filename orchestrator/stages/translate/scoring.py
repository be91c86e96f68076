"""Held-out texts, translated by the saved weights: how many are right, and what looks at what."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from data import Tokenizer
from models.attention_maps import recorded
from models.decoding import EncoderDecoder, translate
from models.transformer import Transformer
from orchestrator.record.checkpoints import Checkpoint
from orchestrator.stages.attention import draw_map
from orchestrator.stages.result import Table
from orchestrator.training import checkpoint

PICTURE = "attention.png"
MOST = 1000  # texts that are translated
AT_ONCE = 64
SHOWN = 12  # texts in the table of examples
Texts = Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Scores:
    """What came out."""

    table: Table
    """A row for each kind of text, and one for all."""
    examples: Table
    """Some sources with what was made of them."""
    metrics: dict[str, float]
    shown: tuple[list[int], list[int]]
    """The tokens of a source and of its translation, both with the end, for a picture."""


def score(saved: Checkpoint, texts: Texts, beams: int, length_penalty: float) -> Scores:
    """Translate held-out texts and compare them with what they should be. One rank calls it.

    Args:
        saved: holds an encoder-decoder and its tokenizer.
        texts: source, target and kind of each; of more than MOST, as many, evenly spread.
        beams: of the search.
        length_penalty: to compare beams.
    """
    step = -(-len(texts) // MOST)
    texts = texts[::step]
    model, tokenizer = load(saved)
    rows = [[*tokenizer.encode(source), tokenizer.end_of_text] for source, _, _ in texts]
    longest = model.config.max_positions
    targets: list[Sequence[int]] = []
    for start in range(0, len(rows), AT_ONCE):
        found = translate(
            model, rows[start : start + AT_ONCE], longest,
            end=tokenizer.end_of_text, beams=beams, length_penalty=length_penalty,
        )  # fmt: skip
        targets += [own[0].tokens for own in found]
    written = [text_of(tokenizer, tokens) for tokens in targets]
    kinds = sorted({kind for _, _, kind in texts})
    chosen = {kind: [n for n, text in enumerate(texts) if text[2] == kind] for kind in kinds}
    parts = {**(chosen if len(kinds) > 1 else {}), "all": list(range(len(texts)))}
    measured = {
        name: compare([texts[n][1] for n in own], [written[n] for n in own])
        for name, own in parts.items()
    }
    rows_of = [
        (name or "texts", f"{len(parts[name]):,}", f"{exact:.1%}", _bleu(bleu), f"{chrf:.1f}")
        for name, (exact, bleu, chrf) in measured.items()
    ]
    columns = ("held-out texts", "number", f"exact, {beams} beams", "BLEU", "chrF")
    some = [own[n] for n in range(SHOWN) for own in chosen.values() if n < len(own)][:SHOWN]
    some.sort()
    exact, bleu, chrf = measured["all"]
    first = chosen.get("dates", parts["all"])[0]
    return Scores(
        Table("translation", columns, tuple(rows_of), bold=len(rows_of) - 1),
        Table(
            "examples",
            ("source", "translated", "should be"),
            tuple((texts[n][0], written[n], _shown(texts[n][1], written[n])) for n in some),
        ),
        {"validation/exact": exact, "validation/chrf": chrf}
        | ({} if math.isnan(bleu) else {"validation/bleu": bleu}),
        (rows[first], list(targets[first])),
    )


def load(saved: Checkpoint) -> tuple[EncoderDecoder, Tokenizer]:
    """The model of a checkpoint of this stage, and its tokenizer."""
    assert saved.tokenizer is not None  # every checkpoint of the stage has one
    model = checkpoint.load_model(saved).eval()
    return cast(EncoderDecoder, model), Tokenizer.load(saved.tokenizer)


def text_of(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """The text of a target, without the token that ended it."""
    return tokenizer.decode([token for token in tokens if token != tokenizer.end_of_text])


def _bleu(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _shown(wanted: str, written: str) -> str:
    return "the same" if wanted == written else wanted


def compare(wanted: Sequence[str], written: Sequence[str]) -> tuple[float, float, float]:
    """Share that is exact, BLEU (Papineni et al. 2002) and chrF (Popović 2015), by sacrebleu.

    BLEU compares up to four words in a row; it is NaN where no wanted text has four.
    """
    from sacrebleu import corpus_bleu, corpus_chrf

    exact = sum(map(str.__eq__, wanted, written)) / len(wanted)
    bleu, chrf = (score(written, [wanted]).score for score in (corpus_bleu, corpus_chrf))
    has_four = corpus_bleu(wanted, [wanted]).totals[-1] > 0
    return exact, float(bleu) if has_four else math.nan, float(chrf)


def draw(saved: Checkpoint, scores: Scores, path: Path, languages: Sequence[str]) -> bool:
    """A picture of what each token of a translation takes of the source, in the last layer.

    Returns:
        Whether there is one: a wrapped model keeps its attention inside.
    """
    model, tokenizer = load(saved)
    if not isinstance(model, Transformer):
        return False
    source, target = scores.shown
    with (
        recorded(model) as maps,
        torch.no_grad(),
    ):  # a target begins behind the end, see `translate`
        model(torch.tensor([source]), torch.tensor([[tokenizer.end_of_text, *target[:-1]]]))
    crossed = [own[0] for name, own in maps.items() if ".cross." in name]  # (H, T, S) each
    draw_map(
        crossed[-1].mean(0),
        [*pieces(tokenizer, target)],
        [*pieces(tokenizer, source)],
        f"Where {languages[1]} looks in {languages[0]}: last layer, mean of its heads",
    ).savefig(path, dpi=120)
    return True


def pieces(tokenizer: Tokenizer, tokens: Sequence[int]) -> Iterator[Any]:
    """Each token as text that can be seen."""
    return (
        "end" if token == tokenizer.end_of_text else tokenizer.decode([token]).replace(" ", "·")
        for token in tokens
    )
