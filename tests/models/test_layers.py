import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import layers, projection
from models.cache import KVCache
from models.configs import GPTConfig
from models.layers import (
    Attention,
    FeedForward,
    document_mask,
    document_starts,
)
from models.positions import rotary_table as table_of
from models.positions import rotate, sinusoidal_positions


def slow_attention(attention, x, rotary_base=None):
    """One query, one head, one key at a time, with float64 complex numbers for the positions."""
    B, T, _ = x.shape
    H, G, K = attention.heads, attention.kv_heads, attention.head_width
    qkv = (x @ attention.qkv.weight.double().T + attention.qkv.bias.double()).view(B, T, -1, K)
    q, k, v = qkv[:, :, :H], qkv[:, :, H : H + G], qkv[:, :, H + G :]
    if rotary_base is not None:
        q, k = complex_rotation(q, rotary_base), complex_rotation(k, rotary_base)
    y = torch.zeros(B, T, H, K, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            for t in range(T):
                scores = [(q[b, t, h] @ k[b, s, g]).item() / math.sqrt(K) for s in range(t + 1)]
                total = sum(math.exp(score) for score in scores)
                for s, score in enumerate(scores):
                    y[b, t, h] += math.exp(score) / total * v[b, s, g]
    return y.flatten(2) @ attention.output.weight.double().T + attention.output.bias.double()


def rotary_table(positions, head_width, base):
    config = GPTConfig(width=head_width, heads=1, positions="rotary", rotary_base=base)
    return table_of(positions, config)


def complex_rotation(x, base):
    """Multiply x_i + j x_(i + K/2) by e^(j t base^(-2i/K)), for x (B, T, heads, K)."""
    T, K = x.shape[1], x.shape[-1]
    z = torch.complex(x[..., : K // 2].double(), x[..., K // 2 :].double())
    for t in range(T):
        for i in range(K // 2):
            angle = t * base ** (-2 * i / K)
            z[:, t, :, i] *= complex(math.cos(angle), math.sin(angle))
    return torch.cat((z.real, z.imag), -1)


def small(**settings):
    return GPTConfig(**{"width": 24, "heads": 4, "layers": 1, "vocab_size": 11} | settings)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_attention_agrees_with_a_loop_over_heads_and_tokens(kv_heads, positions):
    torch.manual_seed(0)
    config = small(kv_heads=kv_heads, positions=positions, init_std=0.5, rotary_base=100.0)
    attention = Attention(config, 0)
    nn.init.normal_(attention.qkv.bias)
    nn.init.normal_(attention.output.bias)
    x = torch.randn(2, 7, 24)
    rotary, base = None, None
    if positions == "rotary":
        base = config.rotary_base
        rotary = rotary_table(torch.arange(7), config.head_width, base)
    expected = slow_attention(attention, x.double(), base)
    torch.testing.assert_close(attention(x, rotary, None).double(), expected, atol=1e-5, rtol=1e-5)


def test_rotation_agrees_with_complex_numbers_also_far_out():
    x = torch.randn(1, 50, 3, 8)
    rotary = rotary_table(torch.arange(50), 8, 10000.0)
    torch.testing.assert_close(
        rotate(x, rotary).double(), complex_rotation(x, 10000.0), atol=1e-5, rtol=1e-5
    )


def test_rotated_products_depend_on_the_distance_alone():
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(t, s):
        at_t = rotary_table(torch.tensor([t]), 16, 10000.0)
        at_s = rotary_table(torch.tensor([s]), 16, 10000.0)
        return (rotate(q, at_t) * rotate(k, at_s)).sum()

    torch.testing.assert_close(product(9, 4), product(105, 100), atol=1e-4, rtol=1e-4)


def test_rotation_of_bf16_is_rounded_once():
    x = torch.randn(1, 40, 2, 16).bfloat16()
    rotary = rotary_table(torch.arange(40), 16, 10000.0)
    assert torch.equal(rotate(x, rotary), rotate(x.float(), rotary).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("B", "T", "heads", "K"), [(1, 1, 1, 2), (3, 7, 5, 6), (2, 33, 3, 48)])
def test_rotation_that_is_trained_agrees_with_autograd(B, T, heads, K, dtype):
    torch.manual_seed(0)
    rotary = rotary_table(torch.randint(999, (B, T)), K, 10000.0)
    x = torch.randn(B, T, heads + 2, K).to(dtype)[:, :, :heads]  # as it is cut from q, k and v
    seen, trained = torch.randn(B, T, heads, K).to(dtype), x.clone().requires_grad_()
    y = rotate(trained, rotary)
    assert y.grad_fn.name() == "_RotatedBackward"
    assert torch.equal(y, rotate(x, rotary))
    (gradient,) = torch.autograd.grad(y, trained, seen)
    exact = x.double().requires_grad_()
    cos, sin = rotary
    turned = torch.addcmul(exact * cos, exact.roll(K // 2, -1), sin.double())
    (expected,) = torch.autograd.grad(turned, exact, seen.double())
    assert gradient.dtype == dtype
    near = 1e-6 if dtype == torch.float32 else 2**-8
    torch.testing.assert_close(gradient.double(), expected, rtol=near, atol=near)


def test_sinusoids_follow_the_formula():
    table = sinusoidal_positions(torch.tensor([0, 3, 70]), 10)
    for row, t in enumerate([0, 3, 70]):
        for i in range(5):
            angle = t / 10000 ** (2 * i / 10)
            assert table[row, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[row, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_erf", "swiglu"])
def test_the_feed_forward_follows_its_formula(activation):
    ffn = FeedForward(small(activation=activation, ffn_width=5, init_std=0.5))
    x = torch.randn(3, 24)
    up = [
        [sum(w * n for w, n in zip(row, x_row, strict=True)) for row in ffn.up.weight.tolist()]
        for x_row in x.tolist()
    ]
    if activation == "gelu":
        c = math.sqrt(2 / math.pi)  # Hendrycks and Gimpel 2016, the tanh form
        hidden = [[0.5 * u * (1 + math.tanh(c * (u + 0.044715 * u**3))) for u in r] for r in up]
    elif activation == "gelu_erf":
        hidden = [[0.5 * u * (1 + math.erf(u / math.sqrt(2))) for u in r] for r in up]
    else:
        hidden = [[r[i] / (1 + math.exp(-r[i])) * r[5 + i] for i in range(5)] for r in up]
    expected = torch.tensor(hidden) @ ffn.down.weight.T
    torch.testing.assert_close(ffn(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_under_a_mask_agrees_with_each_document_alone(kv_heads):
    torch.manual_seed(0)
    attention = Attention(small(kv_heads=kv_heads, init_std=0.5), 0)
    x = torch.randn(1, 7, 24)
    starts = document_starts(torch.tensor([[3, 3, 3, 4, 9, 9, 9]]))
    alone = [slow_attention(attention, part.double()) for part in x.split((3, 1, 3), 1)]
    y = attention(x, None, None, document_mask(starts))
    torch.testing.assert_close(y.double(), torch.cat(alone, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize(("T", "kv_heads"), [(1, 4), (2, 1), (37, 2), (256, 4), (257, 4)])
def test_attention_written_out_agrees_with_the_kernel(monkeypatch, T, kv_heads, documents):
    """Output and gradients in bf16: at most twice as far from float64, since scores are rounded."""
    torch.manual_seed(0)
    attention = Attention(small(kv_heads=kv_heads, init_std=0.5), 0).bfloat16()
    x, seen = torch.randn(3, T, 24).bfloat16(), torch.randn(3, T, 24)
    mask = None
    if documents:
        mask = document_mask(document_starts((torch.rand(3, T) < 0.1).cumsum(1)))
    kernel, calls = functional.scaled_dot_product_attention, []
    monkeypatch.setattr(
        functional,
        "scaled_dot_product_attention",
        lambda *args, **named: calls.append(1) or kernel(*args, **named),
    )

    def both_ways(attention, x):
        x = x.clone().requires_grad_()
        y = attention(x, None, None, mask)
        trained = [x, *attention.parameters()]
        return [y, *torch.autograd.grad((y * seen.to(y.dtype)).sum(), trained)]

    monkeypatch.setattr(projection, "MULTIPLIES_BF16", False)
    exact, by_kernel = both_ways(deepcopy(attention).double(), x.double()), both_ways(attention, x)
    assert len(calls) == 2
    monkeypatch.setattr(projection, "MULTIPLIES_BF16", True)
    found = both_ways(attention, x)
    assert len(calls) == (2 if T <= layers.WRITTEN_OUT_TOKENS else 3)
    for own, other, true in zip(found, by_kernel, exact, strict=True):
        assert (own - true).norm() <= 2 * (other - true).norm() + 1e-3 * true.norm()
    with torch.no_grad():  # as who learns will see it: a policy's first ratio is 1
        assert torch.equal(attention(x, None, None, mask), found[0])


def test_a_document_starts_where_the_id_changes_and_sees_itself_up_to_each_token():
    documents = torch.tensor([[0, 0, 1, 1, 1, 2], [5, 4, 4, 4, 5, 5]], dtype=torch.int32)
    starts = document_starts(documents)
    assert starts.tolist() == [[0, 0, 2, 2, 2, 5], [0, 1, 1, 1, 4, 4]]
    mask = document_mask(starts)
    assert mask.shape == (2, 1, 6, 6)
    for b in range(2):
        for t in range(6):
            seen = [s for s in range(6) if starts[b, t] <= s <= t]
            assert mask[b, 0, t].nonzero()[:, 0].tolist() == seen
    assert document_starts(torch.tensor([[7], [7]])).tolist() == [[0], [0]]


def test_positions_of_each_row_give_the_tables_of_that_row():
    positions = torch.tensor([[0, 1, 2, 0], [0, 0, 1, 2]])
    rows = [rotary_table(row, 8, 100.0) for row in positions]
    for found, *expected in zip(rotary_table(positions, 8, 100.0), *rows, strict=True):
        assert found.shape == (2, 4, 1, 8)
        assert torch.equal(found, torch.stack(expected))
    sines = torch.stack([sinusoidal_positions(row, 8) for row in positions])
    assert torch.equal(sinusoidal_positions(positions, 8), sines)


def test_a_full_cache_says_how_much_it_lacks():
    cache = KVCache(3)
    keys = torch.zeros(1, 1, 2, 4)
    cache.extend(0, keys, keys)
    cache.length = 2
    with pytest.raises(ValueError, match=r"holds 2 of 3 tokens and has no room for 2 more.*\(4\)"):
        cache.extend(0, keys, keys)
