"""One choice of a token taken apart: from the last vector of the text to the token drawn.

D model width, V vocabulary.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.decoding.generating import check
from models.decoding.sampling import Sampling, penalised, pick, probabilities, uniform
from models.decoding.stepping import evaluating
from models.language import LanguageModel


@dataclass(frozen=True)
class Choice:
    """How one token came about; every tensor is over the vocabulary, (V,)."""

    vector: Tensor
    """fp32 (D,): the final normed vector of the last token of the text."""
    similarities: Tensor
    """fp32: its dot product with the output vector of every token, which is the logit."""
    cosines: Tensor
    """fp32: the same without the lengths of the two."""
    likelihoods: Tensor
    """fp32: softmax of the similarities: what the model says."""
    chances: Tensor
    """fp32: after penalty, temperature and filters: what was drawn from."""
    uniform: float | None
    """The number in [0, 1) whose place on the chances, laid end to end, is the token. None: the
    likeliest was taken."""
    stretch: tuple[float, float]
    """Where the token lies there."""
    token: int


@torch.inference_mode()
def explain(
    model: LanguageModel,
    text: Sequence[int],
    sampling: Sampling,
    *,
    seed: int,
    place: int,
    stop_tokens: Collection[int] = (),
) -> Choice:
    """Choose the token after a text as `stream` chooses a row's token number `place`.

    The whole text is read anew: this is for looking, at a token at a time.

    Raises:
        ValueError: the text is empty or too long for the model.
    """
    head = model.head_weight
    tokens = torch.tensor([list(text)], dtype=torch.int64, device=head.device)  # (1, T)
    check(model, tokens, 1)
    with evaluating(model):
        vector = model.hidden(tokens)[0, -1]  # (D,)
    similarities = head @ vector  # (V, D) @ (D,) -> (V,)
    lengths = head.float().norm(dim=-1) * vector.float().norm()
    logits = similarities.float()
    if sampling.repetition_penalty != 1:
        seen = torch.zeros(len(head), dtype=torch.bool, device=head.device)
        seen[tokens[0]] = True
        seen[list(stop_tokens)] = False
        logits = penalised(logits, seen, sampling.repetition_penalty)
    drawn_with = None if sampling.greedy else uniform(seed, place)
    if drawn_with is None:
        token = int(logits.max(-1).indices)
        chances = torch.zeros_like(logits)
        chances[token] = 1.0
    else:
        chances = probabilities(logits[None], sampling)[0]
        place_of = torch.tensor([drawn_with], dtype=torch.float64, device=head.device)
        token = int(pick(chances[None], place_of))
    before = float(chances[:token].double().sum())
    return Choice(
        vector.float(),
        similarities.float(),
        similarities.float() / lengths,
        similarities.float().softmax(-1),
        chances,
        drawn_with,
        (before, before + float(chances[token])),
        token,
    )
