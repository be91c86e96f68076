"""Weights of one task as the start of a model for another."""

from dataclasses import replace

import pytest
import torch

from models import build
from models.configs import BertConfig, GPTConfig
from orchestrator.training.state import WEIGHT, DifferentState, check_parameters
from orchestrator.training.transfer import transferred

MASKED = BertConfig(vocab_size=31, max_positions=8, layers=1, width=16, heads=2)
CLASSES = replace(MASKED, classes=["a", "b", "c"])


class Held:
    """The state of a model in memory."""

    def __init__(self, config):
        torch.manual_seed(1)
        self.tensors = {name: p.detach() for name, p in build(config).named_parameters()}

    def names(self):
        return iter(self.tensors)

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def keys(self, name):
        return frozenset({WEIGHT})

    def read(self, name, key, start, stop):
        return self.tensors[name].flatten()[start:stop]


def whole(reader, name):
    count = torch.Size(reader.shape(name)).numel()
    return reader.read(name, WEIGHT, 0, count).view(reader.shape(name))


def shapes(config):
    return {name: tuple(p.shape) for name, p in build(config).named_parameters()}


def test_all_but_the_output_layer_is_taken_and_what_is_not_is_named():
    saved = Held(MASKED)
    found = transferred(saved, CLASSES, seed=3)
    check_parameters(found, shapes(CLASSES))
    assert set(found.drawn) == {"classifier.weight", "classifier.bias"}
    assert set(found.left) == {name for name in saved.names() if name.startswith("head.")}
    for name in found.names():
        if name not in found.drawn:
            assert torch.equal(whole(found, name), saved.tensors[name])
    [line] = found.lines()
    assert "begin anew: classifier.weight, classifier.bias; left behind: head.bias" in line
    assert line.startswith(f"{len(saved.tensors) - 5} tensors taken")
    again, other = (transferred(saved, CLASSES, seed=seed) for seed in (3, 4))
    assert torch.equal(whole(again, "classifier.weight"), whole(found, "classifier.weight"))
    assert not torch.equal(whole(other, "classifier.weight"), whole(found, "classifier.weight"))


def test_the_same_task_takes_everything_and_other_classes_begin_anew():
    for config in (MASKED, CLASSES):
        found = transferred(Held(config), config, seed=0)
        assert (found.lines(), found.left, dict(found.drawn)) == ([], (), {})
    fewer = replace(CLASSES, classes=["a", "b"])
    found = transferred(Held(CLASSES), fewer, seed=0)
    check_parameters(found, shapes(fewer))
    assert set(found.drawn) == set(found.left) == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("tied", [True, False])
def test_a_language_model_becomes_a_reward_model_whose_values_begin_at_zero(tied):
    writer = GPTConfig(vocab_size=31, layers=1, width=16, heads=2, tied_embedding=tied)
    values = replace(writer, value_head=True)
    found = transferred(Held(writer), values, seed=3)
    check_parameters(found, shapes(values))
    assert found.left == (() if tied else ("head.weight",))
    assert not any(drawn.any() for drawn in found.drawn.values())
    model = build(values)
    model.load_state_dict({name: whole(found, name) for name in found.names()})
    assert model(torch.randint(31, (2, 5))).equal(torch.zeros(2, 5))
    back = transferred(Held(values), writer, seed=3)
    assert back.left == ("value.weight", "value.bias")
    if tied:
        check_parameters(back, shapes(writer))
    else:  # nobody has trained an output layer, and a drawn one would write nonsense
        with pytest.raises(DifferentState, match=r"head\.weight"):
            check_parameters(back, shapes(writer))


def test_another_body_is_not_taken_for_one_that_fits():
    wider = replace(CLASSES, width=32)
    with pytest.raises(DifferentState, match=r"embedding\.weight is of shape"):
        check_parameters(transferred(Held(MASKED), wider, seed=0), shapes(wider))
