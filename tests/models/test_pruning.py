"""Weights, heads and neurons taken out of a model, and what is left of it."""

from dataclasses import replace

import pytest
import torch
from torch.nn.utils import prune

import models
from models import cost, pruning
from models.configs import GPTConfig

PLAIN = GPTConfig(vocab_size=50, width=32, layers=2, heads=4, max_positions=24)
LLAMA = replace(
    PLAIN, activation="swiglu", norm="rmsnorm", positions="rotary", bias=False, kv_heads=2
)
TOKENS = torch.arange(20).view(2, 10)


def drawn(config):
    torch.manual_seed(0)
    model = models.build(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def built(tensors, config):
    model = models.build(config).eval()
    model.load_state_dict(tensors)
    assert cost.tensors(config) == {n: tuple(p.shape) for n, p in model.named_parameters()}
    return model


@pytest.mark.parametrize("config", [PLAIN, LLAMA])
@pytest.mark.parametrize("sparsity", [0.1, 0.75])
def test_the_smallest_weights_of_all_blocks_become_zero_as_torch_prunes_them(config, sparsity):
    model = drawn(config)
    tensors, sparse = pruning.by_magnitude(model.state_dict(), config, sparsity)
    layers = [(model.get_submodule(n.removesuffix(".weight")), n) for n in pruning.names_of(config)]
    places = [(own, "weight") for own, _ in layers]
    prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=sparsity)
    for own, name in layers:
        assert torch.equal(tensors[name], own.weight), name
    torch.testing.assert_close(built(tensors, sparse)(TOKENS), model(TOKENS))


def test_two_of_every_four_weights_stay():
    model = drawn(PLAIN)
    tensors, _ = pruning.by_pattern(model.state_dict(), PLAIN, 2, 4)
    for name in pruning.names_of(PLAIN):
        before, after = (own[name].view(-1, 4) for own in (model.state_dict(), tensors))
        assert ((after != 0).sum(1) == 2).all()
        lost = torch.where(after == 0, before, 0).abs().max(1).values
        assert (torch.where(after == 0, torch.inf, after.abs()).min(1).values > lost).all()


@pytest.mark.parametrize("config", [PLAIN, LLAMA])
def test_a_model_without_neurons_and_heads_is_the_one_in_which_they_say_nothing(config):
    model = drawn(config)
    tensors, smaller = pruning.without_heads(model.state_dict(), config, 2)
    tensors, smaller = pruning.without_neurons(tensors, smaller, 24)
    assert cost.parameters(smaller) < cost.parameters(config)
    found = built(tensors, smaller)(TOKENS)
    for name, weight in model.named_parameters():  # columns that are not among those left
        if name.endswith(("ffn.down.weight", "attention.output.weight")):
            left = {tuple(column.tolist()) for column in tensors[name].T}
            gone = [n for n, column in enumerate(weight.T) if tuple(column.tolist()) not in left]
            assert len(gone) == weight.shape[1] - tensors[name].shape[1]
            weight.data[:, gone] = 0
    torch.testing.assert_close(found, model(TOKENS), rtol=1e-4, atol=1e-5)


def test_what_matters_least_goes_first():
    model = drawn(LLAMA)
    state = model.state_dict()
    state["blocks.0.ffn.down.weight"][:, 5] = 1e-3
    state["blocks.1.attention.output.weight"][:, :16] = 1e-3  # of two heads with the same keys
    neurons, _ = pruning.without_neurons(state, LLAMA, LLAMA.feed_forward_width - 1)
    assert not (neurons["blocks.0.ffn.down.weight"] == 1e-3).any()
    heads, _ = pruning.without_heads(state, LLAMA, 2)
    assert not (heads["blocks.1.attention.output.weight"] == 1e-3).any()
    with pytest.raises(ValueError, match="--heads 3 must be a multiple of the 2 that share keys"):
        pruning.without_heads(state, LLAMA, 3)
    with pytest.raises(ValueError, match="needs rows of a multiple of 5"):
        pruning.by_pattern(state, LLAMA, 2, 5)
