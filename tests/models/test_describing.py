"""What is told of a model is what its module holds and what a real forward pass makes."""

import pytest
import torch

from models import MODELS, build
from models.configs import (
    FeatureModelConfig,
    GPTConfig,
    LanguageModelConfig,
    MLPConfig,
    TokenModelConfig,
)
from models.configs.hf import HFConfig
from models.cost import flops_per_sample
from models.describing import describe

GPT = GPTConfig(vocab_size=211, max_positions=32, layers=3, width=48, heads=4, kv_heads=2)
BLOOM = {"hidden_size": 32, "n_layer": 2, "n_head": 4}
CONFIGS = {
    "gpt": GPT,
    "gpt without biases": GPTConfig(
        vocab_size=211,
        max_positions=32,
        norm="rmsnorm",
        positions="rotary",
        activation="swiglu",
        bias=False,
        qk_norm=True,
        head_dim=20,
        tied_embedding=False,
    ),
    "mlp": MLPConfig(inputs=7, hidden=[5, 5, 9], outputs=3),
    "hf": HFConfig(vocab_size=61, model_type="bloom", settings=BLOOM),
}


def made(model, config, B, T):
    """Shapes of what each module makes in a real forward pass."""
    shapes = {}
    for name, module in model.named_modules():
        module.register_forward_hook(
            lambda m, i, o, name=name: shapes.setdefault(name, o) if name else None
        )
    inputs = torch.zeros(B, T, dtype=torch.int64)
    model(inputs if isinstance(config, LanguageModelConfig) else torch.zeros(B, config.inputs))
    return {n: tuple(o.shape) for n, o in shapes.items() if isinstance(o, torch.Tensor)}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_counts_are_those_of_the_module_and_shapes_those_of_a_forward_pass(config):
    B, T = 3, 11 if isinstance(config, LanguageModelConfig) else 1
    found = describe(config, B, T)
    model = build(config).eval()
    counted = sum(row.numbers * row.repeated for row in found.parameters)
    assert counted == sum(p.numel() for p in model.parameters())
    real = made(model, config, B, T)
    for row in found.activations:
        for layer in range(row.repeated):
            name = row.name.replace("*", str(layer))
            assert real.get(name, row.shape) == row.shape, name
    told = {r.name.replace("*", str(n)) for r in found.activations for n in range(r.repeated)}
    for name in real:
        assert name in told or "dropout" in name or name.endswith("theirs"), name
    whole = flops_per_sample(config, T)
    share = 3 if isinstance(config, LanguageModelConfig) else whole / (found.forward_flops / B)
    assert found.forward_flops / B * share == pytest.approx(whole)


def test_letters_tell_which_size_a_number_is_though_others_are_as_large():
    config = GPTConfig(vocab_size=128, max_positions=128, layers=2, width=128, heads=4)
    found = describe(config, 4, 128)
    shapes = {row.name: row.symbols for row in (*found.parameters, *found.activations)}
    assert shapes["embedding.weight"] == "(V, D)"
    assert shapes["position_embedding.weight"] == "(P, D)"
    assert shapes["blocks.*.attention.qkv.weight"] == "(3D, D)"
    assert shapes["blocks.*.attention.scores, weights"] == "(B, H, T, T)"
    assert shapes["logits"] == "(B, T, V)"


def test_queries_keys_and_values_are_told_apart():
    shapes = {row.name: (row.symbols, row.shape) for row in describe(GPT, 2, 8).activations}
    assert shapes["blocks.*.attention.q"] == ("(B, H, T, K)", (2, 4, 8, 12))
    assert shapes["blocks.*.attention.k"] == ("(B, G, T, K)", (2, 2, 8, 12))
    assert shapes["blocks.*.attention.v"] == ("(B, G, T, K)", (2, 2, 8, 12))
    assert shapes["blocks.*.attention.qkv"] == ("(B, T, (H+2G)K)", (2, 8, 96))


@pytest.mark.parametrize("family", MODELS)
def test_every_family_can_be_described(family):
    if family == "hf":
        config = CONFIGS["hf"]
    else:
        features = issubclass(MODELS[family].config, FeatureModelConfig)
        sizes = {"inputs": 4, "outputs": 3} if features else {"vocab_size": 50}
        config = MODELS[family].config(**sizes)
    found = describe(config, 2, 8 if isinstance(config, TokenModelConfig) else 1)
    assert found.activations
    assert found.tree.parts
