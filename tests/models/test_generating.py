import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build
from models.cache import FixedKVCache, KVCache
from models.configs import GPTConfig
from models.decoding import (
    Row,
    Sampling,
    explain,
    generate,
    row_seeds,
    stepping,
    stream,
    write_rows,
)
from models.decoding.generating import prefill
from models.decoding.sampling import (
    filtered,
    penalised,
    pick,
    probabilities,
    uniform,
    uniforms,
)
from models.decoding.stepping import Stepper

VARIANTS = [
    (norm, positions, kv_heads)
    for norm in ("layernorm", "rmsnorm")
    for positions, kv_heads in (("learned", 4), ("sinusoidal", 1), ("rotary", 2))
]
GREEDY = Sampling(temperature=0)
RAGGED = [[1, 2, 3], [4], [5, 6, 7, 8, 9], [3, 3], [1]]


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


@torch.no_grad()
def loop_without_cache(model, prompt, count, sampling, seed):
    """The definition: each token from a pass over the whole text."""
    text, logprobs = list(prompt), []
    for place in range(count):
        logits = model(torch.tensor([text]))[0, -1].float()
        likely = logits.log_softmax(-1)
        if sampling.repetition_penalty != 1:
            for token in set(text):
                by = sampling.repetition_penalty
                logits[token] = logits[token] / by if logits[token] > 0 else logits[token] * by
        if sampling.greedy:
            token = int(logits.argmax())
        else:
            chances = probabilities(logits[None], sampling)[0].tolist()
            at, token = uniform(seed, place) * math.fsum(chances), 0
            while at >= chances[token]:
                at -= chances[token]
                token += 1
        text.append(token)
        logprobs.append(float(likely[token]))
    return text[len(prompt) :], logprobs


@pytest.mark.parametrize(("norm", "positions", "kv_heads"), VARIANTS)
def test_rows_of_any_lengths_are_continued_as_by_a_loop_without_a_cache(norm, positions, kv_heads):
    more = {"bias": norm == "layernorm", "activation": "swiglu" if kv_heads == 2 else "gelu"}
    model = model_for(norm, positions, kv_heads, **more)
    for sampling in (GREEDY, Sampling(0.7, 1.3, top_k=9), Sampling(1.3, 0.8, top_p=0.9)):
        seeds = row_seeds(7, len(RAGGED))
        together = generate(model, RAGGED, 12, sampling, seeds=seeds, logprobs=True)
        assert together.mask.all()
        for row, prompt in enumerate(RAGGED):
            tokens, logprobs = loop_without_cache(model, prompt, 12, sampling, seeds[row])
            assert together.tokens[row].tolist() == tokens
            expected = torch.tensor(logprobs)
            torch.testing.assert_close(together.logprobs[row], expected, atol=1e-4, rtol=1e-4)
            alone = generate(model, [prompt], 12, sampling, seeds=seeds[row : row + 1])
            assert alone.tokens[0].tolist() == tokens


@settings(max_examples=15, deadline=None)
@given(padding=st.integers(0, 6), side=st.sampled_from(VARIANTS), noise=st.integers(0, 30))
def test_padding_of_any_length_and_content_changes_no_logits(padding, side, noise):
    model, prompt = model_for(*side).eval(), [3, 1, 4, 1, 5]
    tokens = torch.tensor([[noise] * padding + prompt, [7] * padding + prompt])
    cache = KVCache(24, torch.tensor([padding, padding]))
    with torch.inference_mode():
        logits = prefill(model, tokens, cache)
        after = Stepper(model, cache, 2, 1).step(torch.tensor([9, 2]))
        for row, token in enumerate((9, 2)):
            alone = model(torch.tensor([[*prompt, token]]))[0]
            torch.testing.assert_close(logits[row], alone[-2], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(after[row], alone[-1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("starts", [None, [0, 3]])
@pytest.mark.parametrize(("norm", "positions", "kv_heads"), VARIANTS)
def test_steps_of_constant_shapes_give_what_growing_ones_give(norm, positions, kv_heads, starts):
    model = model_for(norm, positions, kv_heads)
    tokens = torch.randint(31, (2, 12))
    device, found = tokens.device, []
    for fixed in (False, True):
        cache = KVCache(12, None if starts is None else torch.tensor(starts))
        with torch.inference_mode():
            prefill(model, tokens[:, :6], cache)
            for both in cache._layers.values():  # as memory that others have used may be
                for each in both:
                    each[:, :, 6:] = math.nan
            if fixed:
                cache = FixedKVCache(cache, 2, device)
            step = Stepper(model, cache, 2, 1).step
            for t in range(6, 12):
                if fixed:
                    cache.next.fill_(t)
                found.append(step(tokens[:, t]))
    torch.testing.assert_close(found[:6], found[6:], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU to record on")
@pytest.mark.parametrize("prompts", [[[3, 1, 4, 1, 5]], [[3, 1], [4, 1, 5, 9]]])
def test_a_recorded_step_writes_what_single_operations_write(prompts, monkeypatch):
    model = model_for().cuda()
    recorded = generate(model, prompts, 18, GREEDY, logprobs=True)
    monkeypatch.setattr(stepping, "FEW_STEPS", 99)
    plain = generate(model, prompts, 18, GREEDY, logprobs=True)
    assert recorded.tokens.tolist() == plain.tokens.tolist()
    torch.testing.assert_close(recorded.logprobs, plain.logprobs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("norm", "positions", "kv_heads"), VARIANTS)
def test_logits_are_the_same_in_pieces(norm, positions, kv_heads):
    model = model_for(norm, positions, kv_heads).eval()
    tokens = torch.randint(31, (2, 12))
    cache = KVCache(12)
    pieces = [model(piece, cache) for piece in tokens.split((4, 1, 5, 2), 1)]
    assert cache.length == 12
    torch.testing.assert_close(torch.cat(pieces, 1), model(tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("activation", "bias"), [("gelu", True), ("gelu_erf", True), ("swiglu", False)]
)
def test_sorted_weights_give_what_plain_ones_give(dtype, activation, bias, monkeypatch):
    model = model_for(activation=activation, bias=bias).to(dtype)
    tokens = torch.randint(31, (5, 6))
    found = []
    for sort in (False, True):
        monkeypatch.setattr(stepping, "_sorting_pays", lambda *_, sort=sort: sort)
        with torch.inference_mode():
            cache = KVCache(7)
            prefill(model, tokens, cache)
            found.append(Stepper(model, cache, 5, 99).step(tokens[:, 0]).float())
    near = 1e-5 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(*found, atol=near, rtol=near)


def test_room_is_made_once_and_logits_are_made_of_last_positions_alone(monkeypatch):
    model, rooms, shapes = model_for(), set(), []
    logits, extend = model.logits, KVCache.extend

    def counted(self, layer, keys, values):
        found = extend(self, layer, keys, values)
        rooms.add((layer, found[0].data_ptr(), found[1].data_ptr()))
        return found

    def shaped(hidden):
        shapes.append(tuple(hidden.shape))
        return logits(hidden)

    monkeypatch.setattr(KVCache, "extend", counted)
    monkeypatch.setattr(model, "logits", shaped)
    generate(model, RAGGED, 15)
    assert len(rooms) == 2  # layers
    assert shapes == [(5, 32)]


@pytest.mark.parametrize("way", ["cast", "autocast"])
def test_generation_works_in_bf16(way):
    model = model_for("rmsnorm", "rotary", 2)
    prompt = torch.randint(31, (2, 4))
    if way == "cast":
        model.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        assert generate(model, prompt, 6, GREEDY).tokens.shape == (2, 6)


def test_draws_follow_the_distribution_of_the_model():
    model = model_for()
    prompt = torch.randint(31, (1, 3)).expand(20000, 3)
    drawn = generate(model, prompt, 1, Sampling(temperature=2.0), seeds=row_seeds(0, 20000))
    expected = (model(prompt[:1])[0, -1] / 2.0).softmax(-1)
    frequency = torch.bincount(drawn.tokens[:, 0], minlength=31) / 20000
    # Five standard errors of a binomial share, for 31 tokens at once.
    assert ((frequency - expected).abs() < 5 * (expected / 20000).sqrt() + 1e-4).all()


def test_numbers_to_draw_with_are_uniform_and_unrelated():
    table = torch.tensor([[uniform(seed, place) for place in range(40)] for seed in range(500)])
    seeds = [2**64 - 1, 0, -1, 3**60]
    for place in (7, [7, 0, 9, 2**31]):
        places = [place] * 4 if isinstance(place, int) else place
        assert uniforms(seeds, place).tolist() == list(map(uniform, seeds, places))
    assert (table >= 0).all()
    assert (table < 1).all()
    counts = torch.histc(table.flatten(), 10, 0, 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-squared, 9 degrees, p = 0.001
    for one, other in ((table[:, :-1], table[:, 1:]), (table[:-1], table[1:])):
        pair = torch.stack((one.flatten(), other.flatten()))
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 4 / pair.shape[1] ** 0.5


def test_the_same_seeds_draw_the_same_tokens_and_leave_the_global_generator_alone():
    model = model_for()
    prompt = torch.randint(31, (2, 3))
    state = torch.get_rng_state()
    first, again, other = (
        generate(model, prompt, 9, seeds=row_seeds(seed, 2)).tokens for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())
    assert row_seeds(1, 5)[:2] == row_seeds(1, 2)


def test_the_narrowest_filters_are_greedy():
    model = model_for()
    prompt = torch.randint(31, (2, 3))
    greedy = generate(model, prompt, 8, GREEDY).tokens
    narrow = ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0})
    near_zero = [{"temperature": t} for t in (1e-12, 1e-40, 1e-300)]
    for settings_ in (*narrow, *near_zero):
        assert torch.equal(generate(model, prompt, 8, Sampling(**settings_)).tokens, greedy)


def brute_force(logits, top_k, top_p, min_p):
    """Which tokens may be drawn, from the definitions."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    if top_k is not None:
        order = order[:top_k]
    weights = [math.exp(logits[i]) for i in order]
    if top_p is not None:
        fewest = 1
        while fewest < len(order) and sum(weights[:fewest]) / sum(weights) < top_p:
            fewest += 1
        order = order[:fewest]
    if min_p is not None:
        order = [i for i, w in zip(order, weights, strict=False) if w >= min_p * weights[0]]
    return set(order)


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.integers(-60, 60), min_size=1, max_size=12, unique=True),
    top_k=st.none() | st.integers(1, 14),
    top_p=st.none() | st.floats(0.013, 0.987),
    min_p=st.none() | st.floats(0.013, 0.987),
)
def test_filtering_equals_brute_force(logits, top_k, top_p, min_p):
    row = [logit / 10 for logit in logits]
    batch = torch.tensor([row, row[::-1]])
    result = filtered(batch, Sampling(top_k=top_k, top_p=top_p, min_p=min_p))
    for found, values in zip(result, (row, row[::-1]), strict=True):
        allowed = {i for i, logit in enumerate(found.tolist()) if logit > -math.inf}
        assert allowed == brute_force(values, top_k, top_p, min_p)
        for i in allowed:
            assert found[i] == torch.tensor(values[i])


def test_filtering_of_equal_logits_keeps_exactly_k():
    equal = torch.zeros(2, 9)
    assert filtered(equal, Sampling(top_k=4)).isfinite().sum(-1).tolist() == [4, 4]
    assert filtered(equal, Sampling(top_k=9, top_p=1.0, min_p=1.0)).isfinite().all()


def test_a_draw_never_takes_a_token_without_probability():
    chances = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]])
    for number, token in ((0.0, 1), (0.2999, 1), (0.3001, 3), (1 - 2**-32, 3)):
        assert pick(chances, torch.tensor([number], dtype=torch.float64)).tolist() == [token]


def test_the_penalty_spares_padding_and_stop_tokens():
    logits = torch.tensor([[2.0, -1.0, 3.0]])
    seen = torch.tensor([[True, True, False]])
    assert penalised(logits, seen, 2.0).tolist() == [[1.0, -2.0, 3.0]]
    model = model_for()
    strong = Sampling(5.0, 0)
    # Token 0 is what pads; in a row of its own it is not there at all.
    rows = generate(model, [[1, 2, 3, 4, 5, 6, 7], [8]], 6, strong).rows()
    assert rows[1] == generate(model, [[8]], 6, strong).rows()[0]
    exempt = generate(model, [[8]], 1, strong, stop_tokens=[8], logprobs=True)
    plain = generate(model, [[8]], 1, GREEDY, logprobs=True)
    assert exempt.tokens.tolist() == plain.tokens.tolist()


def test_a_row_ends_with_its_stop_token_and_its_mask_says_so():
    model = model_for()
    prompt = torch.randint(31, (4, 5))
    free = generate(model, prompt, 15, GREEDY).rows()
    stops = {free[0][2], free[1][6]}
    stopped = generate(model, prompt, 15, GREEDY, stop_tokens=stops)
    expected = [row[: next((t for t in range(15) if row[t] in stops), 14) + 1] for row in free]
    assert stopped.rows() == expected
    assert stopped.tokens.shape[1] == max(map(len, expected))
    assert generate(model, prompt, 15, stop_tokens=range(31)).tokens.shape == (4, 1)


def test_copies_of_a_prompt_are_continued_as_if_each_had_been_read():
    model, warm = model_for(positions="rotary"), Sampling(temperature=0.7)
    copies, seeds = [2, 0, 3, 1, 1], row_seeds(3, 7)
    each = [row for row, n in zip(RAGGED, copies, strict=True) for _ in range(n)]
    settings = {"seeds": seeds, "logprobs": True, "tempered": True}
    apart = generate(model, each, 8, warm, **settings)
    shared = generate(model, RAGGED, 8, warm, copies=copies, **settings)
    assert torch.equal(apart.tokens, shared.tokens)
    assert torch.allclose(apart.logprobs, shared.logprobs, atol=1e-5)
    with torch.no_grad():  # and what is told of them is what the whole text says
        row = torch.tensor([[*each[3], *shared.tokens[3].tolist()]])
        logits = model(row[:, :-1])[0, len(each[3]) - 1 :] / 0.7
    expected = logits.log_softmax(-1).gather(-1, shared.tokens[3][:, None])[:, 0]
    assert torch.allclose(shared.logprobs[3], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("slots", "more"),
    [
        (12, {}),
        (3, {"norm": "rmsnorm", "positions": "rotary", "kv_heads": 2}),
        (1, {"positions": "sinusoidal"}),
        (3, {"mask": "sliding_window", "window": 4}),
    ],
)
@pytest.mark.parametrize("sampling", [Sampling(temperature=0.7), GREEDY])
def test_rows_in_slots_are_written_as_in_one_batch_that_stays(slots, more, sampling):
    model = model_for(**more)
    prompts = [row for row in RAGGED for _ in range(1 + len(row) % 3)]
    seeds = row_seeds(2, len(prompts))
    most = [1 + 5 * row % 13 for row in range(len(prompts))]
    rows = [Row(*each) for each in zip(prompts, seeds, most, strict=True)]
    write_rows(model, rows, sampling, stop_tokens=(3, 4), slots=slots)
    settings = {"seeds": seeds, "stop_tokens": (3, 4), "logprobs": True}
    whole = generate(model, prompts, 13, sampling, tempered=not sampling.greedy, **settings)
    assert [row.tokens for row in rows] == [
        own[:n] for own, n in zip(whole.rows(), most, strict=True)
    ]
    for row, expected in zip(rows, whole.logprobs, strict=True):
        told = torch.tensor(row.logprobs)
        assert torch.allclose(told, expected[: len(told)], atol=1e-5)


def test_nothing_is_computed_for_a_row_that_has_ended(monkeypatch):
    widths = []
    step = Stepper.step
    monkeypatch.setattr(Stepper, "step", lambda *a: (widths.append(len(a[1])), step(*a))[1])
    rows = [Row([1, 2], seed, most) for seed, most in enumerate([9, 1, 4, 2, 3, 2])]
    write_rows(model_for(), rows, Sampling(), slots=3)
    assert sum(widths) == sum(row.most_tokens - 1 for row in rows)


def test_a_stream_hands_out_tokens_as_they_come_and_a_halt_ends_a_row():
    model = model_for()
    whole = generate(model, RAGGED, 9, seeds=row_seeds(1, 5))
    told = []

    def halt(row, token):
        told.append((row, token))
        return sum(r == row for r, _ in told) == row + 1  # row b after b + 1 tokens

    steps = stream(model, RAGGED, 9, seeds=row_seeds(1, 5), halt=halt)
    assert told == []
    first = next(steps)
    assert first.tokens.tolist() == whole.tokens[:, 0].tolist()
    assert len([first, *steps]) == 5
    for row in range(5):
        assert [t for r, t in told if r == row] == whole.tokens[row, : row + 1].tolist()


@pytest.mark.parametrize("training", [True, False])
def test_the_modes_of_all_modules_are_left_as_they_were(training):
    model = model_for(dropout=0.5).train(training)
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    prompt = torch.randint(31, (1, 3))
    greedy = generate(model, prompt, 9, GREEDY).tokens
    assert torch.equal(greedy, generate(model, prompt, 9, GREEDY).tokens)  # dropout is off
    assert [module.training for module in model.modules()] == before


def test_generated_tokens_can_be_trained_on():
    model = model_for()
    tokens = generate(model, torch.randint(31, (1, 3)), 9).tokens
    assert not tokens.is_inference()
    model(tokens).sum().backward()
    assert model.embedding.weight.grad is not None


def test_an_explained_choice_is_the_one_that_is_made():
    model = model_for()
    for sampling in (GREEDY, Sampling(1.5, 0.9, top_k=5)):
        tokens = generate(model, [[1, 2]], 6, sampling, seeds=[4], stop_tokens=[30]).rows()[0]
        for place in range(len(tokens)):
            text = [1, 2, *tokens[:place]]
            choice = explain(model, text, sampling, seed=4, place=place, stop_tokens=[30])
            assert choice.token == tokens[place]
            logits = model(torch.tensor([text]))[0, -1]
            torch.testing.assert_close(choice.similarities, logits, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(choice.likelihoods.sum(), torch.tensor(1.0))
            low, high = choice.stretch
            assert high - low == pytest.approx(float(choice.chances[choice.token]))
            assert choice.uniform is None or low <= choice.uniform < high
            cosine = torch.cosine_similarity(model.head_weight, choice.vector[None])
            torch.testing.assert_close(choice.cosines, cosine, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"max_new_tokens": 20},
            r"5 tokens and max_new_tokens=20 make 25, above .*=24.*at most 19",
        ),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"prompts": torch.zeros(2, 0, dtype=torch.int64)}, r"prompts has shape \(2, 0\)"),
        ({"prompts": torch.zeros(3, dtype=torch.int64)}, r"prompts has shape \(3,\)"),
        ({"prompts": []}, "no prompt; give at least one token"),
        ({"prompts": [[1], []]}, r"prompt number 1 \(from 0\) is empty"),
        ({"prompts": [[1], [99]]}, "prompts has 99, which is outside the vocabulary of 31"),
        ({"stop_tokens": [31]}, "stop_tokens has 31, which is outside the vocabulary of 31"),
        ({"seeds": [1]}, "there are 1 seeds for 2 prompts"),
    ],
)
def test_requests_that_cannot_work_are_refused(change, message):
    arguments = {"prompts": torch.zeros(2, 5, dtype=torch.int64), "max_new_tokens": 3} | change
    with pytest.raises(ValueError, match=message):
        generate(model_for(), **arguments)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"temperature": float("nan")}, "temperature=nan must be"),
        ({"top_k": 0}, "top_k=0 must be at least 1"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1"),
        ({"min_p": 0.0}, "min_p=0.0 must be above 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**setting)
