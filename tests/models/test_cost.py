import itertools
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import set_checkpoint_early_stop
from torch.utils.flop_counter import FlopCounterMode

from models import build
from models.configs import (
    BertConfig,
    ByHandConfig,
    GPTConfig,
    LSTMConfig,
    MLPConfig,
    ModelConfig,
    RNNConfig,
    TransformerConfig,
    WindowConfig,
)
from models.cost import (
    cache_numbers,
    flops,
    flops_per_sample,
    flops_per_token,
    largest_layer,
    parameters,
    tensors,
)

CHOICES = itertools.product(
    ("layernorm", "rmsnorm"),
    ("learned", "sinusoidal", "rotary"),
    ("gelu", "swiglu"),
    (True, False),  # bias
    (True, False),  # tied_embedding
    ((None, None), (2, 50)),  # kv_heads, ffn_width
)
CONFIGS = [
    GPTConfig(
        vocab_size=101,
        max_positions=32,
        layers=3,
        width=48,
        heads=4,
        norm=norm,
        positions=positions,
        activation=activation,
        bias=bias,
        tied_embedding=tied,
        kv_heads=kv_heads,
        ffn_width=ffn_width,
    )
    for norm, positions, activation, bias, tied, (kv_heads, ffn_width) in CHOICES
]


MLPS = [
    *(
        MLPConfig(inputs=7, hidden=hidden, outputs=3, bias=bias)
        for hidden in ([], [5], [11, 2, 9])
        for bias in (True, False)
    ),
    ByHandConfig(inputs=7, hidden=[5], outputs=3),
]
BLOCKS = [
    *(
        TransformerConfig(**own, shared_embedding=s)
        for own in ({}, {"norm_order": "pre"})
        for s in (True, False)
    ),
    *(BertConfig(norm_order=order) for order in ("post", "pre")),
    BertConfig(segments=2, classes=["a", "b", "c"]),
]
BLOCKS = [
    replace(c, vocab_size=101, max_positions=32, layers=3, width=48, ffn_width=50, dropout=0.0)
    for c in BLOCKS
]


OTHERS = [
    family(vocab_size=101, width=12, tied_embedding=tied, **more)
    for tied in (True, False)
    for family, more in (
        (RNNConfig, {"layers": 3}),
        (LSTMConfig, {"layers": 1}),
        (WindowConfig, {"window": 3, "hidden": 9}),
    )
]
OTHERS += [replace(config, value_head=True) for config in [*CONFIGS[:1], *OTHERS]]


def test_tensors_parameters_and_the_largest_layer_are_those_of_the_built_module():
    built = [*CONFIGS, *MLPS, *BLOCKS, *OTHERS]
    for config in [*built, replace(CONFIGS[0], vocab_size=2, max_positions=400)]:
        with torch.device("meta"):
            model = build(config)
        assert parameters(config) == sum(p.numel() for p in model.parameters()), config
        assert tensors(config) == {n: tuple(p.shape) for n, p in model.named_parameters()}, config
        own = [
            sum(p.numel() for p in module.parameters(recurse=False)) for module in model.modules()
        ]
        assert largest_layer(config) == max(own), config


@pytest.mark.parametrize("config", [*CONFIGS[::7], *OTHERS])
def test_flops_are_those_that_torch_counts_forward_and_backward(config):
    model = build(config).double()  # oneDNN's LSTM, of floats, is not counted
    tokens = torch.randint(101, (2, 20))
    # The plain kernel: its matrix products are counted one by one, none recomputed.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits = model(tokens)
        forward = counter.get_total_flops()
        logits.sum().backward()
    assert flops(config, 20).forward * len(tokens) == forward
    assert flops_per_token(config, 20) * tokens.numel() == counter.get_total_flops()


def test_checkpointing_computes_the_blocks_again():
    config = CONFIGS[0]
    model = build(config)
    model.activation_checkpointing = True
    # torch leaves out the last product of each block, which nothing needs again.
    whole = set_checkpoint_early_stop(False)
    with sdpa_kernel(SDPBackend.MATH), whole, FlopCounterMode(display=False) as counter:
        model(torch.randint(101, (2, 20))).sum().backward()
    own = flops(config, 20)
    assert 2 * (own.training + own.blocks) == counter.get_total_flops()


@pytest.mark.parametrize("config", [CONFIGS[0], CONFIGS[-1], *OTHERS[:2]])
def test_writing_keeps_as_many_numbers_of_a_sequence_as_planned(config):
    model = build(config).eval()
    cache = model.new_cache(20)
    with torch.no_grad():
        model.hidden(torch.randint(101, (3, 20)), cache)
    kept = cache._layers.values() if isinstance(config, GPTConfig) else cache.states
    numbers = sum(tensor.numel() for pair in kept for tensor in pair)
    assert numbers == 3 * cache_numbers(config, 20)


@pytest.mark.parametrize("config", BLOCKS)
def test_flops_of_blocks_are_those_that_torch_counts(config):
    model = build(config)
    texts = [torch.randint(101, (2, 20)) for _ in range(2)]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(*texts[: 1 + isinstance(config, TransformerConfig)]).sum().backward()
    assert flops_per_sample(config, 20) * 2 == counter.get_total_flops()


@pytest.mark.parametrize("config", MLPS)
def test_flops_of_a_perceptron_are_those_that_torch_counts(config):
    model = build(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(4, 7)).sum().backward()
    assert flops_per_sample(config) * 4 == counter.get_total_flops()


def test_the_vocabulary_can_be_given_beside_the_config():
    config = CONFIGS[0]
    unset = replace(config, vocab_size=None)
    assert parameters(unset, 101) == parameters(config)
    assert largest_layer(unset, 101) == largest_layer(config)
    assert tensors(unset, 101) == tensors(config)
    assert flops_per_sample(unset, 8, 101) == 8 * flops_per_token(config, 8)
    assert flops_per_token(unset, 8, 101) == flops_per_token(config, 8)
    with pytest.raises(ValueError, match=r"model\.vocab_size is not set"):
        parameters(unset)


def test_a_family_without_formulas_is_refused():
    with pytest.raises(ValueError, match=r"model\.family='other' is no family"):
        parameters(ModelConfig(family="other"))
