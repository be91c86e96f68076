import numpy as np
import pytest

from orchestrator.stages.regress.kinks import formula, written_out


def relu(z):
    return np.maximum(z, 0)


def network(weights, outputs, x):
    return relu(x @ np.asarray(weights, float).T) @ np.asarray(outputs, float)


@pytest.mark.parametrize(
    ("weights", "outputs"),
    [
        ([[1, 0], [-1, 0], [-1, 1]], [1, -1, 1]),  # a + (b - a)+
        ([[0, 2], [0, -0.5], [3, -3]], [0.5, -2, 1 / 3]),  # b + (a - b)+
        ([[1, 1], [-1, -1], [1, -1], [-1, 1]], [0.5, -0.5, 0.5, 0.5]),  # (a + b) / 2 + |a - b| / 2
    ],
)
def test_every_network_of_the_maximum_is_written_as_one_formula(weights, outputs):
    x = np.random.default_rng(0).normal(size=(50, 2))
    assert network(weights, outputs, x) == pytest.approx(x.max(1))
    linear, kinks = written_out(np.asarray(weights, float), np.asarray(outputs, float))
    assert formula(linear, kinks, ("a", "b")) == "a + (b - a)+"


def test_what_is_written_out_is_what_the_network_computes():
    draw = np.random.default_rng(1)
    weights, outputs, x = draw.normal(size=(6, 3)), draw.normal(size=6), draw.normal(size=(40, 3))
    linear, kinks = written_out(weights, outputs)
    written = x @ linear + sum(kink.size * relu(x @ kink.direction) for kink in kinks)
    assert written == pytest.approx(network(weights, outputs, x))
    assert formula(np.zeros(2), [], ("a", "b")) == "0"
