import itertools

import pytest
import torch
from torch import nn

from models import build
from models.configs import TransformerConfig
from models.decoding import translate

V, END = 4, 0
SOURCES = [[1, 2, 3, END], [3, END], [2, 2, 1, 3, 1, END]]


def model_for(order="post"):
    torch.manual_seed(2)
    model = build(
        TransformerConfig(vocab_size=V, max_positions=16, width=16, heads=2, norm_order=order)
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval()


@torch.no_grad()
def logprob(model, source, tokens):
    """Of the tokens (T,) of a target, from a whole forward pass without a cache."""
    target = torch.tensor([[END, *tokens[:-1]]])
    likely = model(torch.tensor([source]), target)[0].double().log_softmax(-1)
    return float(likely[range(len(tokens)), list(tokens)].sum())


def every_target(model, source, longest):
    found = {}
    for length in range(1, longest + 1):
        for tokens in itertools.product(range(V), repeat=length):
            if END not in tokens[:-1] and (tokens[-1] == END or length == longest):
                found[tokens] = logprob(model, source, tokens)
    return found


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 1.6])
def test_wide_beams_find_what_trying_all_targets_finds_for_each_source(length_penalty):
    model = model_for()
    found = translate(model, SOURCES, 4, end=END, beams=V**3, best=5, length_penalty=length_penalty)
    for source, own in zip(SOURCES, found, strict=True):
        every = every_target(model, source, 4)
        scores = sorted((p / len(t) ** length_penalty for t, p in every.items()), reverse=True)
        assert [h.score for h in own] == pytest.approx(scores[:5], abs=1e-5)
        for hypothesis in own:
            assert hypothesis.logprob == pytest.approx(every[hypothesis.tokens], abs=1e-5)


@pytest.mark.parametrize("order", ["post", "pre"])
def test_greedy_takes_the_likeliest_token_each_time_as_passes_without_a_cache_do(order):
    model = model_for(order)
    found = translate(model, SOURCES, 10, end=END)
    for source, (own,) in zip(SOURCES, found, strict=True):
        slow = []
        while len(slow) < 10 and END not in slow:
            with torch.no_grad():
                logits = model(torch.tensor([source]), torch.tensor([[END, *slow]]))
            slow.append(int(logits[0, -1].argmax()))
        assert list(own.tokens) == slow
        assert own.logprob == pytest.approx(logprob(model, source, slow), abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_is_translated_alike_alone_and_in_company(beams):
    model = model_for().train()
    together = translate(model, SOURCES, 9, end=END, beams=beams, best=beams)
    assert model.training
    for source, found in zip(SOURCES, together, strict=True):
        (alone,) = translate(model, [source], 9, end=END, beams=beams, best=beams)
        assert [h.tokens for h in alone] == [h.tokens for h in found]
        assert [h.score for h in alone] == pytest.approx([h.score for h in found], abs=1e-5)


@pytest.mark.parametrize(
    ("sources", "new", "beams", "message"),
    [
        ([[1], []], 3, 1, "text number 1 .* is empty"),
        ([], 3, 1, "no text"),
        ([[1]], 17, 1, r"max_new_tokens=17 must be from 1 to model\.max_positions=16"),
        ([[1] * 17], 3, 1, "a text of 17 tokens is longer"),
        ([[1]], 3, 0, "beams=0 must be at least 1"),
    ],
)
def test_what_cannot_be_translated_is_refused(sources, new, beams, message):
    with pytest.raises(ValueError, match=message):
        translate(model_for(), sources, new, end=END, beams=beams)
