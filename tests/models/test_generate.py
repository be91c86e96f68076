import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build
from models.configs import GPTConfig
from models.generate import _filter_logits, generate
from models.layers import KVCache

VARIANTS = [
    (norm, positions, kv_heads)
    for norm in ("layernorm", "rmsnorm")
    for positions, kv_heads in (("learned", 4), ("sinusoidal", 1), ("rotary", 2))
]


def model_for(norm="layernorm", positions="learned", kv_heads=4, **more):
    torch.manual_seed(0)
    return build(
        GPTConfig(
            vocab_size=31,
            max_positions=24,
            layers=2,
            width=32,
            heads=4,
            kv_heads=kv_heads,
            norm=norm,
            positions=positions,
            init_std=0.3,
            **more,
        )
    )


def uncached_greedy(model, tokens, count):
    for _ in range(count):
        tokens = torch.cat((tokens, model(tokens)[:, -1:].argmax(-1)), 1)
    return tokens


@pytest.mark.parametrize(("norm", "positions", "kv_heads"), VARIANTS)
@pytest.mark.parametrize("B", [1, 3])
def test_cached_generation_equals_uncached(norm, positions, kv_heads, B):
    model = model_for(norm, positions, kv_heads)
    prompt = torch.randint(31, (B, 5))
    expected = uncached_greedy(model, prompt, 19)
    assert torch.equal(generate(model, prompt, 19, temperature=0), expected)
    for row, expected_row in zip(prompt, expected, strict=True):
        assert torch.equal(generate(model, row[None], 19, temperature=0)[0], expected_row)


@pytest.mark.parametrize(("norm", "positions", "kv_heads"), VARIANTS)
def test_logits_are_the_same_in_pieces(norm, positions, kv_heads):
    model = model_for(norm, positions, kv_heads).eval()
    tokens = torch.randint(31, (2, 12))
    cache = KVCache(12)
    pieces = [model(piece, cache) for piece in tokens.split((4, 1, 5, 2), 1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", ["cast", "autocast"])
def test_generation_works_in_bf16(way):
    model = model_for("rmsnorm", "rotary", 2)
    prompt = torch.randint(31, (2, 4))
    if way == "cast":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        assert generate(model, prompt, 6, temperature=0).shape == (2, 10)


def test_draws_follow_the_distribution_of_the_model():
    model = model_for()
    prompt = torch.randint(31, (1, 3)).expand(20000, 3)
    generator = torch.Generator().manual_seed(0)
    drawn = generate(model, prompt, 1, temperature=2.0, generator=generator)[:, -1]
    expected = (model(prompt[:1])[0, -1] / 2.0).softmax(-1)
    frequency = torch.bincount(drawn, minlength=31) / 20000
    # Five standard errors of a binomial share, for 31 tokens at once.
    assert ((frequency - expected).abs() < 5 * (expected / 20000).sqrt() + 1e-4).all()


def test_the_same_generator_draws_the_same_tokens_and_leaves_the_global_one_alone():
    model = model_for()
    prompt = torch.randint(31, (2, 3))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = generate(model, prompt, 9, generator=torch.Generator().manual_seed(1))
    again = generate(model, prompt, 9, generator=torch.Generator().manual_seed(1))
    other = generate(model, prompt, 9, generator=torch.Generator().manual_seed(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_top_k_of_one_is_greedy():
    model = model_for()
    prompt = torch.randint(31, (2, 3))
    greedy = generate(model, prompt, 8, temperature=0)
    assert torch.equal(generate(model, prompt, 8, top_k=1), greedy)
    assert torch.equal(generate(model, prompt, 8, top_p=1e-6), greedy)


@pytest.mark.parametrize("temperature", [1e-12, 1e-40, 1e-300])
def test_a_temperature_near_zero_is_greedy(temperature):
    model = model_for()
    prompt = torch.randint(31, (2, 3))
    greedy = generate(model, prompt, 8, temperature=0)
    assert torch.equal(generate(model, prompt, 8, temperature=temperature), greedy)


def brute_force(logits, top_k, top_p):
    """Which tokens may be drawn, from the definitions."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k is not None:
        order = order[:top_k]
    if top_p is not None:
        weights = [math.exp(logits[i]) for i in order]
        fewest = 1
        while fewest < len(order) and sum(weights[:fewest]) / sum(weights) < top_p:
            fewest += 1
        order = order[:fewest]
    return set(order)


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.integers(-60, 60), min_size=1, max_size=12, unique=True),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.floats(0.013, 0.987),
)
def test_filtering_equals_brute_force(logits, top_k, top_p):
    row = [logit / 10 for logit in logits]
    batch = torch.tensor([row, row[::-1]])
    filtered = _filter_logits(batch, top_k, top_p)
    for result, values in zip(filtered, (row, row[::-1]), strict=True):
        allowed = {i for i, logit in enumerate(result.tolist()) if logit > -math.inf}
        assert allowed == brute_force(values, top_k, top_p)
        for i in allowed:
            assert result[i] == torch.tensor(values[i])


def test_filtering_of_equal_logits_keeps_exactly_k():
    assert _filter_logits(torch.zeros(2, 9), 4, None).isfinite().sum(-1).tolist() == [4, 4]
    assert _filter_logits(torch.zeros(2, 9), 9, 1.0).isfinite().all()


def test_a_row_that_stops_is_filled_with_its_stop_token():
    model = model_for()
    prompt = torch.randint(31, (4, 5))
    free = generate(model, prompt, 15, temperature=0)
    stops = {int(free[0, 7]), int(free[1, 11])}
    stopped = generate(model, prompt, 15, temperature=0, stop_tokens=stops)
    ends = []
    for row, free_row in zip(stopped.tolist(), free.tolist(), strict=True):
        end = next((t for t in range(5, 20) if free_row[t] in stops), 19)
        ends.append(end)
        assert row[: end + 1] == free_row[: end + 1]
        assert set(row[end:]) == {free_row[end]}
    assert stopped.shape[1] == max(ends) + 1


def test_generation_ends_when_all_rows_have_stopped():
    model = model_for()
    prompt = torch.randint(31, (3, 5))
    assert generate(model, prompt, 15, stop_tokens=range(31)).shape == (3, 6)


@pytest.mark.parametrize("training", [True, False])
def test_the_modes_of_all_modules_are_left_as_they_were(training):
    model = model_for(dropout=0.5).train(training)
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    prompt = torch.randint(31, (1, 3))
    greedy = generate(model, prompt, 9, temperature=0)
    assert torch.equal(greedy, generate(model, prompt, 9, temperature=0))  # dropout is off
    assert [module.training for module in model.modules()] == before
    with pytest.raises(IndexError):
        generate(model, torch.tensor([[99]]), 3)
    assert [module.training for module in model.modules()] == before


def test_generated_tokens_can_be_trained_on():
    model = model_for()
    tokens = generate(model, torch.randint(31, (1, 3)), 9)
    assert not tokens.is_inference()
    model(tokens).sum().backward()
    assert model.embedding.weight.grad is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_new_tokens": 20},
            r"5 tokens and max_new_tokens=20 make 25, above .*=24.*at most 19",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"prompt": torch.zeros(2, 0, dtype=torch.int64)}, r"prompt has shape \(2, 0\)"),
        ({"prompt": torch.zeros(3, dtype=torch.int64)}, r"prompt has shape \(3,\)"),
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan must be"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1"),
        ({"stop_tokens": [31]}, "stop_tokens has 31, which is outside the vocabulary of 31"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    arguments = {"prompt": torch.zeros(2, 5, dtype=torch.int64), "max_new_tokens": 3} | change
    with pytest.raises(ValueError, match=message):
        generate(model_for(), **arguments)
