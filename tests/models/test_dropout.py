import itertools
import math
import threading
from contextlib import suppress
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from models import build
from models.configs import GPTConfig
from models.dropout import Dropout, keep_mask, keyed, number_dropouts
from models.layers import Attention

GPT2 = GPTConfig(
    vocab_size=61, max_positions=16, layers=2, width=32, heads=4, init_std=0.2, dropout=0.3
)
LLAMA = replace(
    GPT2, norm="rmsnorm", positions="rotary", activation="swiglu", bias=False, kv_heads=2
)
BOTH = pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])


def slow_keep(seed, site, indices, p):
    """Whether an element stays, in Python's integers: one element at a time."""

    def mix64(x):
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            x = ((x ^ (x >> shift)) * factor) % 2**64
        return x

    def scramble(x):
        x = x * 0x7FEB352D % 2**32
        x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
        return x ^ (x >> 16)

    key = mix64((seed + site * 0x9E3779B97F4A7C15) % 2**64)
    place = 0
    for index in indices:
        place = scramble((place + index) % 2**32)
    x = (place * (key % 2**32 | 1) + (key >> 32)) % 2**32
    x = (x ^ (x >> 15)) * 0x846CA68B % 2**32
    return (x + 2**31) % 2**32 >= round(p * 2**32)


def masks(samples, sites, shape=(1 << 15,), p=0.5, first=0):
    """Masks of neighbouring seeds, as `keyed` mixes them: bool (sites, samples, *shape)."""
    seen = []
    dropout = Dropout(p)
    with keyed(torch.arange(first, first + samples)):
        for site in range(sites):
            dropout.site = site
            seen.append(dropout(torch.ones(samples, *shape)) != 0)
    return torch.stack(seen)


def independent(bits):
    """Check that each two rows of bits (n, N) agree in half of their places, to chance.

    The correlations of n (n - 1) / 2 independent pairs, times sqrt N, are standard normal: their
    squares have a chi-square distribution, the largest stays below 6 for a million pairs.
    """
    signs = bits.double() * 2 - 1
    correlations = (signs @ signs.T / math.sqrt(bits.shape[1]))[
        tuple(torch.triu_indices(len(bits), len(bits), 1))
    ]
    pairs = len(correlations)
    assert abs((correlations**2).sum().item() - pairs) < 5 * math.sqrt(2 * pairs)
    assert correlations.abs().max() < 6


def test_masks_agree_with_a_loop_in_whole_numbers():
    seeds = torch.tensor([0, 1, -1, 2**63 - 1, -(2**63), 1234567891011])
    for site, p in ((0, 0.5), (1, 0.1), (977, 0.9)):
        found = keep_mask(seeds, site, torch.Size((3, 2, 5)), p)
        for b, seed in enumerate(seeds.tolist()):
            for indices in itertools.product(range(3), range(2), range(5)):
                assert found[(b, *indices)] == slow_keep(seed % 2**64, site, indices, p)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
def test_elements_stay_with_their_probability_in_each_sample_and_at_each_place(p):
    kept = masks(256, 1, (1 << 14,), p)[0].double()
    for dim in (0, 1):
        n = kept.shape[dim]
        scores = (kept.mean(dim) - (1 - p)) * math.sqrt(n / (p * (1 - p)))
        assert abs((scores**2).mean().item() - 1) < 5 * math.sqrt(2 / len(scores))
        assert scores.abs().max() < 6
    assert (kept.mean().item() - (1 - p)) < 5 * math.sqrt(p * (1 - p) / kept.numel())


def test_masks_of_samples_and_of_modules_are_independent():
    independent(masks(400, 1)[0])
    independent(masks(1, 200)[:, 0])
    independent(masks(16, 16).flatten(0, 1))


def test_neighbouring_elements_are_independent():
    runs = masks(64, 1, (1 << 15,))[0]
    for lag in (1, 2, 3, 64, 1024, 16384):
        agree = (runs[:, lag:] == runs[:, :-lag]).double()
        scores = (agree.mean(1) - 0.5) * 2 * math.sqrt(agree.shape[1])
        assert abs((scores**2).mean().item() - 1) < 5 * math.sqrt(2 / 64)
    # The 256 patterns of 8 elements in a row are equally frequent.
    words = (runs.view(-1, 8) * (1 << torch.arange(8))).sum(1)
    counts = words.bincount(minlength=256).double()
    expected = len(words) / 256
    assert abs(((counts - expected) ** 2 / expected).sum().item() - 255) < 5 * math.sqrt(2 * 255)
    # Rows, columns and heads of one sample are as independent as samples.
    cube = masks(1, 1, (16, 16, 4096))[0, 0]
    independent(cube.flatten(0, 1))
    independent(cube.permute(0, 2, 1)[:, :64].flatten(0, 1).T[:, :1024])


def test_the_mask_of_a_sample_ignores_its_batch_and_how_far_it_is_padded():
    dropout = Dropout(0.4)
    number_dropouts(dropout)
    seeds, x = torch.tensor([5, 9, 2]), torch.rand(3, 4, 7, 6) + 1
    with keyed(seeds):
        together = dropout(x)
    for b in range(3):
        with keyed(seeds[b : b + 1]):
            padded = dropout(functional.pad(x[b : b + 1], (0, 3, 0, 2, 0, 1)))
        assert torch.equal(padded[0, :4, :7, :6], together[b])


def test_the_mean_over_seeds_is_what_went_in():
    x = torch.tensor([[1.0, -3.0, 0.5]])
    dropout = Dropout(0.25)
    number_dropouts(dropout)
    with keyed(torch.arange(100_000)):
        mean = dropout(x.expand(100_000, 3)).mean(0)
    torch.testing.assert_close(mean, x[0], rtol=0.01, atol=0)


def gradients(model, tokens, seeds, micro):
    """Loss and gradients of one step over all samples, so many in a micro-batch."""
    model.zero_grad()
    total = 0.0
    for part, keys in zip(tokens.split(micro), seeds.split(micro), strict=True):
        with keyed(keys):
            logits = model(part)
            loss = functional.cross_entropy(logits.flatten(0, 1), part.flatten(), reduction="sum")
            loss.backward()
        total += loss.item()
    return total, [parameter.grad.clone() for parameter in model.parameters()]


@BOTH
def test_a_step_is_the_same_however_it_is_cut(config):
    torch.manual_seed(0)
    model = build(config).double()
    tokens, seeds = torch.randint(61, (8, 16)), torch.randint(1 << 40, (8,))
    whole, expected = gradients(model, tokens, seeds, 8)
    for micro in (4, 1):
        torch.manual_seed(micro)
        loss, found = gradients(model, tokens, seeds, micro)
        assert loss == pytest.approx(whole, rel=1e-6)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    shuffled = torch.randperm(8)
    loss, _ = gradients(model, tokens[shuffled], seeds[shuffled], 2)
    assert loss == pytest.approx(whole, rel=1e-6)
    other, _ = gradients(model, tokens, seeds + 1, 8)
    assert other != pytest.approx(whole, rel=1e-4)


@BOTH
@pytest.mark.parametrize("thread", [False, True])
def test_recomputed_activations_find_the_same_masks_in_any_thread(config, thread):
    torch.manual_seed(0)
    model = build(config)
    tokens, seeds = torch.randint(61, (3, 16)), torch.arange(3)
    _, expected = gradients(model, tokens, seeds, 3)
    model.activation_checkpointing = True
    model.zero_grad()
    with keyed(seeds):
        loss = functional.cross_entropy(
            model(tokens).flatten(0, 1), tokens.flatten(), reduction="sum"
        )
        if thread:  # as autograd does for work on a GPU
            backward = threading.Thread(target=loss.backward)
            backward.start()
            backward.join()
        else:
            loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_the_random_numbers_of_torch_are_neither_used_nor_moved():
    model, tokens = build(GPT2), torch.randint(61, (2, 16))
    before = torch.get_rng_state()
    with keyed(torch.arange(2)):
        first = model(tokens)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(99)
        assert torch.equal(model(tokens), first)


def test_outside_of_keyed_dropout_is_torchs_own_and_evaluation_drops_nothing():
    dropout, x = Dropout(0.3), torch.rand(4, 50)
    torch.manual_seed(3)
    found = dropout(x)
    torch.manual_seed(3)
    assert torch.equal(found, functional.dropout(x, 0.3))
    with keyed(torch.arange(4)):
        assert dropout.eval()(x) is x
        assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("documents", [False, True])
def test_attention_drops_its_weights_by_the_mask(kv_heads, documents):
    torch.manual_seed(0)
    attention = Attention(replace(GPT2, kv_heads=kv_heads), 0)
    number_dropouts(attention)
    attention.output_dropout.p = 0.0
    x, seeds = torch.randn(2, 7, 32), torch.tensor([8, 1])
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    if documents:
        mask[4:, :4] = False
    site, p, seen = attention.weights_dropout.site, 0.3, {}
    attention.weights_dropout.register_forward_pre_hook(lambda _, args: seen.update(w=args[0]))
    with keyed(seeds):
        found = attention(x, None, None, mask[None, None] if documents else None)
        zeroes = Dropout(p)
        zeroes.site = site
        scale = zeroes(torch.ones(2, 4, 7, 7))
    q, k, v = attention.qkv(x).unflatten(-1, (-1, 8)).split((4, kv_heads, kv_heads), 2)
    expected = torch.zeros(2, 7, 4, 8)
    for b, h, t in itertools.product(range(2), range(4), range(7)):
        g = h * kv_heads // 4
        exps = {s: (q[b, t, h] @ k[b, s, g] / math.sqrt(8)).exp() for s in range(7) if mask[t, s]}
        for s, value in exps.items():
            weight = value / sum(exps.values())
            expected[b, t, h] += scale[b, h, t, s] * weight * v[b, s, g]
    assert seen["w"].dtype == torch.float32
    torch.testing.assert_close(found, attention.output(expected.flatten(2)), atol=1e-5, rtol=1e-4)


def test_what_attention_keeps_for_the_backward_pass_grows_with_t_not_with_its_square():
    def kept(T):
        attention, sizes = Attention(GPT2, 0), []
        number_dropouts(attention)
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.nbytes) or tensor, lambda tensor: tensor
        )
        with hooks, keyed(torch.arange(1)):
            attention(torch.randn(1, T, 32), None, None)
        return sum(sizes)

    assert kept(512) < 2.2 * kept(256)


def test_attention_without_dropout_stays_the_kernel_inside_keyed():
    model, tokens = build(replace(LLAMA, dropout=0.0)), torch.randint(61, (2, 16))
    with keyed(torch.arange(2)):
        inside = model(tokens)
    assert torch.equal(inside, model(tokens))


def test_inner_seeds_are_over_at_the_end_of_their_block_also_after_an_error():
    dropout, x = Dropout(0.5), torch.ones(1, 64)
    number_dropouts(dropout)
    with keyed(torch.tensor([1])):
        outer = dropout(x)
        with suppress(KeyError), keyed(torch.tensor([2])):
            assert not torch.equal(dropout(x), outer)
            raise KeyError
        assert torch.equal(dropout(x), outer)
    assert not torch.equal(dropout(x), dropout(x))


def test_seeds_that_do_not_fit_the_batch_are_refused():
    model = build(GPT2)
    with (
        keyed(torch.arange(3)),
        pytest.raises(ValueError, match="got 2 samples and 3 seeds; give keyed"),
    ):
        model(torch.randint(61, (2, 16)))
    for seeds in (torch.zeros(2), torch.zeros(2, 1, dtype=torch.int64)):
        with pytest.raises(ValueError, match=r"it must be int64 \(B,\)"), keyed(seeds):
            pass


def test_a_model_with_keyed_dropout_traces_into_one_graph():
    model, tokens = build(LLAMA), torch.randint(61, (2, 16))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for first in (0, 10):
        with keyed(torch.arange(first, first + 2)):
            torch.testing.assert_close(compiled(tokens), model(tokens))
