import itertools

import pytest
import torch

from models import build
from models.configs import GPTConfig
from models.decoding import Sampling, beam_search, generate

V = 4


def model_for(positions="learned", init_std=0.6):
    torch.manual_seed(1)
    return build(
        GPTConfig(
            vocab_size=V, max_positions=12, layers=2, width=16, heads=2, init_std=init_std,
            positions=positions,
        )
    )  # fmt: skip


@torch.no_grad()
def all_continuations(model, prompt, longest, stops):
    """Every hypothesis there is, with its log-probability: {tokens: logprob}."""
    found = {}
    for length in range(1, longest + 1):
        for tokens in itertools.product(range(V), repeat=length):
            ends = tokens[-1] in stops or length == longest
            if ends and not any(token in stops for token in tokens[:-1]):
                text = torch.tensor([[*prompt, *tokens]])
                likely = model(text)[0].double().log_softmax(-1)
                places = range(len(prompt) - 1, text.shape[1] - 1)
                found[tokens] = sum(
                    float(likely[at, token]) for at, token in zip(places, tokens, strict=True)
                )
    return found


@pytest.mark.parametrize("stops", [(), (2,), (0, 3)])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -1.0])
def test_wide_beams_find_what_trying_all_continuations_finds(stops, length_penalty):
    for positions in ("learned", "rotary"):
        model, prompt = model_for(positions), [1, 3, 0]
        every = all_continuations(model, prompt, 4, stops)
        scores = sorted((p / len(t) ** length_penalty for t, p in every.items()), reverse=True)
        found = beam_search(
            model, prompt, 4, beams=V**3, best=5, length_penalty=length_penalty, stop_tokens=stops
        )
        assert [h.score for h in found] == pytest.approx(scores[:5], abs=1e-5)
        for hypothesis in found:
            assert hypothesis.logprob == pytest.approx(every[hypothesis.tokens], abs=1e-5)


def test_one_beam_is_greedy_and_more_are_no_worse():
    model = model_for()
    greedy = generate(model, [[1, 2]], 8, Sampling(temperature=0), logprobs=True)
    (narrow,) = beam_search(model, [1, 2], 8, beams=1)
    assert list(narrow.tokens) == greedy.rows()[0]
    assert narrow.logprob == pytest.approx(float(greedy.logprobs.sum()), abs=1e-4)
    wide = beam_search(model, [1, 2], 8, beams=6, best=6)
    assert len({h.tokens for h in wide}) == 6
    assert wide == sorted(wide, reverse=True)
    assert wide[0].score >= narrow.score - 1e-5


def test_more_than_is_kept_cannot_be_asked_for():
    with pytest.raises(ValueError, match=r"beams=2 must be at least 1, and best=3 from 1 to 2"):
        beam_search(model_for(), [1], 2, beams=2, best=3)
    with pytest.raises(ValueError, match="make 14, above"):
        beam_search(model_for(), [1] * 10, 4, beams=2)
