import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import build
from models.configs import GPTConfig, MLPConfig
from models.dropout import keyed

THEIRS = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "identity": nn.Identity,
}


def as_sequential(model):
    """torch's own modules around the same weights."""
    parts = []
    for layer in model.layers:
        own = nn.Linear(layer.in_features, layer.out_features)
        own.load_state_dict(layer.state_dict())
        parts += [own.to(layer.weight.dtype), THEIRS[model.config.activation]()]
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize("activation", THEIRS)
@pytest.mark.parametrize("hidden", [[], [9], [6, 8]])
def test_scores_and_gradients_equal_those_of_a_sequential(activation, hidden):
    torch.manual_seed(0)
    model = build(MLPConfig(inputs=5, hidden=hidden, outputs=3, activation=activation))
    theirs, x, labels = as_sequential(model), torch.randn(7, 5), torch.randint(3, (7,))
    assert torch.equal(model(x), theirs(x))
    for each in (model, theirs):
        functional.cross_entropy(each(x), labels).backward()
    pairs = zip(model.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(ours.grad, other.grad) for ours, other in pairs)


@pytest.mark.parametrize("activation", THEIRS)
def test_gradients_equal_numerical_ones_also_with_keyed_dropout(activation):
    torch.manual_seed(0)
    config = MLPConfig(inputs=3, hidden=[4, 5], outputs=2, activation=activation, dropout=0.4)
    model = build(config).double()
    for layer in model.layers:  # off the kink of relu
        nn.init.normal_(layer.bias)
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    with keyed(torch.tensor([4, 7])):  # a random mask would be another one in each evaluation
        assert torch.autograd.gradcheck(lambda x, *_: model(x), (x, *model.parameters()))


def test_checkpointed_activations_give_the_same_gradients():
    torch.manual_seed(0)
    model = build(MLPConfig(inputs=64, outputs=10, dropout=0.3, hidden=[32, 16]))
    x, gradients = torch.randn(6, 64), []
    for checkpointing in (False, True):
        model.activation_checkpointing = checkpointing
        model.zero_grad()
        with keyed(torch.arange(6)):
            model(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize("init", ["kaiming", "xavier"])
def test_initial_weights_have_the_std_of_their_paper(init):
    torch.manual_seed(0)
    model = build(MLPConfig(inputs=300, hidden=[200], outputs=100, init=init))
    for layer, (inputs, outputs) in zip(model.layers, ((300, 200), (200, 100)), strict=True):
        expected = (2 / (inputs if init == "kaiming" else inputs + outputs)) ** 0.5
        assert layer.weight.std().item() == pytest.approx(expected, rel=0.03)
        assert not layer.bias.any()


CONFIGS = [
    MLPConfig(inputs=64, outputs=10, hidden=[7, 5]),
    *(
        GPTConfig(layers=2, width=16, heads=2, vocab_size=11, norm=norm, tied_embedding=tied)
        for norm, tied in itertools.product(("layernorm", "rmsnorm"), (True, False))
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_layers_from_the_meta_device_draw_the_numbers_of_direct_construction(config):
    torch.manual_seed(5)
    direct = build(config).state_dict()
    with torch.device("meta"):
        model = build(config)
    model.to_empty(device="cpu")
    torch.manual_seed(5)
    for module in model.modules():  # in the order of construction
        if next(module.parameters(recurse=False), None) is not None:
            module.reset_parameters()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, direct[name]), name
