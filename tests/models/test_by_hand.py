import numpy as np
import pytest
import torch
from torch.nn import functional

from models import build
from models.by_hand import Layer, Network
from models.configs import ByHandConfig
from models.configs.mlp import COSTS


def double(cost, hidden=(5, 4), seed=0):
    """A network in float64, examples (7, 3) and targets (7, 2)."""
    drawn = Network.drawn(ByHandConfig(inputs=3, hidden=list(hidden), outputs=2), seed)
    layers = [Layer(layer.weight.astype(float), layer.bias.astype(float)) for layer in drawn.layers]
    draw = np.random.default_rng(seed)
    return Network(layers, cost), draw.normal(size=(7, 3)), np.eye(2)[draw.integers(0, 2, 7)]


def total(network, x, y):
    return network.losses(network.forward(x)[-1], y).sum()


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("hidden", [(), (5,), (5, 4)])
def test_the_gradients_of_the_four_equations_are_those_of_autograd_and_numerical_ones(cost, hidden):
    network, x, y = double(cost, hidden)
    found = network.gradients(network.forward(x), y)
    numbers = [
        (
            torch.tensor(layer.weight, requires_grad=True),
            torch.tensor(layer.bias, requires_grad=True),
        )
        for layer in network.layers
    ]
    outputs = torch.tensor(x)
    for weight, bias in numbers:
        outputs = torch.sigmoid(functional.linear(outputs, weight, bias))
    told = torch.tensor(y)
    if cost == "quadratic":
        loss = ((outputs - told) ** 2).sum() / 2
    else:
        loss = functional.binary_cross_entropy(outputs, told, reduction="sum")
    assert total(network, x, y) == pytest.approx(loss.item(), abs=1e-10)
    loss.backward()
    for layer, gradient, theirs in zip(network.layers, found, numbers, strict=True):
        for name, tensor in zip(("weight", "bias"), theirs, strict=True):
            own, array = getattr(gradient, name), getattr(layer, name)
            np.testing.assert_allclose(own, tensor.grad.numpy(), rtol=0, atol=1e-10)
            place = np.unravel_index(np.abs(own).argmax(), own.shape)
            before, costs = array[place], []
            for step in (1e-5, -1e-5):
                array[place] = before + step
                costs.append(total(network, x, y))
            array[place] = before
            assert own[place] == pytest.approx((costs[0] - costs[1]) / 2e-5, rel=1e-6)


def test_a_step_goes_down_the_mean_gradient_and_shrinks_weights_alone():
    network, x, y = double("quadratic")
    before = {name: array.copy() for name, array in network.named().items()}
    gradients = network.gradients(network.forward(x), y)
    network.descend(gradients, 0.5, len(x), decay=0.1)
    for index, gradient in enumerate(gradients):
        weight, bias = (before[f"layers.{index}.{name}"] for name in ("weight", "bias"))
        own = network.layers[index]
        np.testing.assert_allclose(own.weight, weight - 0.5 * (gradient.weight / 7 + 0.1 * weight))
        np.testing.assert_allclose(own.bias, bias - 0.5 * gradient.bias / 7)


def test_the_cross_entropy_of_saturated_units_is_finite_in_float32():
    network = Network.drawn(ByHandConfig(inputs=1, hidden=[], outputs=1, cost="cross_entropy"), 0)
    network.layers[0].weight[:] = 1e4
    outputs = network.forward(np.array([[1.0], [-1.0]], dtype=np.float32))[-1]
    assert outputs.ravel().tolist() == [1.0, 0.0]
    assert np.isfinite(network.losses(outputs, np.array([[0], [1]], dtype=np.float32))).all()


def test_its_twin_in_torch_gives_the_scores_whose_sigmoid_are_its_outputs():
    config = ByHandConfig(inputs=6, hidden=[5], outputs=4)
    network, twin = Network.drawn(config, 3), build(config)
    named = network.named()
    assert set(named) == set(twin.state_dict())
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in named.items()})
    x = np.random.default_rng(0).normal(size=(9, 6)).astype(np.float32)
    theirs = twin(torch.from_numpy(x)).sigmoid().detach().numpy()
    np.testing.assert_allclose(network.forward(x)[-1], theirs, atol=1e-6)
