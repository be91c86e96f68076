"""Other masks and scores of attention: what a token sees, and what each score computes."""

from dataclasses import replace

import pytest
import torch

from models import build
from models.cache import KVCache
from models.configs import GPTConfig
from models.configs.gpt import SCORES
from models.decoding import Sampling, generate
from models.layers import Attention
from models.scores import ScoredAttention, cosine, negated_dot, squared_dot

SMALL = GPTConfig(
    vocab_size=61, max_positions=24, layers=2, width=32, heads=4, kv_heads=2, init_std=0.2,
    positions="rotary",
)  # fmt: skip
SEES = {
    "causal": lambda t, s: s <= t,
    "sliding_window": lambda t, s: t - 4 < s <= t,
    "reversed": lambda t, s: s >= t,
    "none": lambda t, s: True,
}


def masked(mask, **settings):
    return replace(SMALL, mask=mask, window=4, **settings)


@pytest.mark.parametrize("mask", SEES)
@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_a_change_reaches_just_the_tokens_that_see_it(mask, score):
    """In one layer, for a second one carries it on."""
    torch.manual_seed(0)
    model = build(masked(mask, layers=1, score=score)).eval()
    T = 10
    tokens = torch.randint(61, (1, T))
    before = model(tokens)[0]
    for s in range(T):
        changed = tokens.clone()
        changed[0, s] = (changed[0, s] + 7) % 61
        after = model(changed)[0]
        for t in range(T):
            assert torch.equal(before[t], after[t]) != (SEES[mask](t, s) or s == t), (t, s)


@pytest.mark.parametrize("mask", SEES)
def test_documents_of_a_row_are_kept_apart_under_every_mask(mask):
    torch.manual_seed(0)
    model = build(masked(mask)).eval()
    first, second = torch.randint(61, (1, 7)), torch.randint(61, (1, 6))
    row = torch.cat((first, second), 1)
    documents = torch.tensor([[3] * 7 + [5] * 6])
    alone = torch.cat((model(first), model(second)), 1)
    torch.testing.assert_close(model(row, documents=documents), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("mask", ["causal", "sliding_window"])
def test_texts_are_written_alike_with_a_cache_and_without_in_company_and_alone(score, mask):
    torch.manual_seed(0)
    model = build(masked(mask, score=score)).eval()
    prompts = [[5, 7, 9, 11, 13, 2, 4], [4]]
    rows = generate(model, prompts, 8, Sampling(temperature=0)).rows()
    for prompt, row in zip(prompts, rows, strict=True):
        text = list(prompt)
        for _ in range(8):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        assert text[len(prompt) :] == row
    cache, tokens = KVCache(12), torch.randint(61, (2, 12))
    parts = [model(tokens[:, :5], cache), model(tokens[:, 5:], cache)]
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_each_score_is_its_formula_and_learns(score):
    torch.manual_seed(0)
    model = build(replace(SMALL, score=score)).train()
    attention = model.blocks[0].attention
    assert type(attention) is (Attention if score == "dot" else ScoredAttention)
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8)
    dot = torch.einsum("bhtk,bhsk->bhts", q, k) / 8**0.5
    lengths = q.norm(dim=-1)[..., None] * k.norm(dim=-1)[:, :, None]
    expected = {"squared_dot": dot**2, "negated_dot": -dot, "cosine": 8 * dot / lengths}
    for name, function in (
        ("squared_dot", squared_dot), ("negated_dot", negated_dot), ("cosine", cosine),
    ):  # fmt: skip
        torch.testing.assert_close(function(q, k), expected[name])
    if score == "additive":
        vectors = attention.score.vectors.weight
        summed = (q[:, :, :, None] + k[:, :, None]).tanh() * vectors[:, None, None]
        torch.testing.assert_close(attention.score(q, k), summed.sum(-1))
    tokens = torch.randint(61, (2, 9))
    model(tokens, targets=tokens, loss_mask=torch.ones(2, 9, dtype=torch.bool)).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_attention_by_dot_products_is_what_the_written_out_scores_would_give():
    torch.manual_seed(0)
    plain, scored = Attention(SMALL, 0), ScoredAttention(replace(SMALL, score="negated_dot"), 0)
    scored.load_state_dict(plain.state_dict())
    scored.score = lambda q, k: -negated_dot(q, k)
    x = torch.randn(2, 9, 32)
    torch.testing.assert_close(plain(x, None, None), scored(x, None, None), atol=1e-5, rtol=1e-5)
