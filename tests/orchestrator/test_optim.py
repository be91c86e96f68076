import math

import pytest
import torch
from torch import nn

from orchestrator.config import OptimConfig
from orchestrator.training.optim import build, learning_rate

STEPS = 100


def rate(step, steps=STEPS, **settings):
    return learning_rate(OptimConfig(learning_rate=2.0, **settings), step, steps)


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_warm_up_is_linear_and_ends_at_the_peak(schedule):
    for step in range(1, 11):
        assert rate(step, schedule=schedule, warmup_steps=10) == pytest.approx(2.0 * step / 10)
    assert rate(10, schedule=schedule, warmup_steps=10) == 2.0


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_without_warm_up_the_first_step_has_nearly_the_peak(schedule):
    assert rate(1, schedule=schedule, warmup_steps=0) == pytest.approx(2.0, rel=1e-3)


def test_cosine_is_half_way_in_the_middle_and_ends_at_the_final_fraction():
    settings = {"schedule": "cosine", "warmup_steps": 20, "final_fraction": 0.1}
    assert rate(60, **settings) == pytest.approx((2.0 + 0.2) / 2)
    assert rate(40, **settings) == pytest.approx(0.2 + 1.8 * math.cos(math.pi / 8) ** 2)
    assert rate(STEPS, **settings) == pytest.approx(0.2)
    assert rate(STEPS, **settings | {"final_fraction": 0.0}) == pytest.approx(0.0, abs=1e-12)


def test_wsd_is_flat_and_then_falls_linearly_over_the_last_part():
    settings = {
        "schedule": "wsd",
        "warmup_steps": 10,
        "decay_fraction": 0.25,
        "final_fraction": 0.2,
    }
    for step in range(10, 76):
        assert rate(step, **settings) == 2.0
    for step in range(75, 101):
        assert rate(step, **settings) == pytest.approx(2.0 - 1.6 * (step - 75) / 25)
    assert rate(STEPS, **settings) == pytest.approx(0.4)


def test_constant_stays_at_the_peak_to_the_end():
    assert {rate(step, schedule="constant", warmup_steps=10) for step in range(10, 101)} == {2.0}


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_short_jobs_have_finite_rates_that_are_never_negative(schedule, steps):
    for warmup in range(steps):
        rates = [
            rate(step, steps, schedule=schedule, warmup_steps=warmup, final_fraction=0.0)
            for step in range(1, steps + 1)
        ]
        assert all(0.0 <= value <= 2.0 for value in rates)


def test_matrices_are_decayed_and_vectors_are_not():
    model = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    optimizer = build(model, OptimConfig(weight_decay=0.5))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        shrunk = 1 - 0.1 * 0.5 if parameter.dim() >= 2 else 1.0
        assert torch.allclose(parameter, before[name] * shrunk), name


def test_every_trainable_parameter_is_in_one_group_also_when_matrices_are_tied():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    model.register_parameter("frozen", frozen)
    groups = build(model, OptimConfig()).param_groups
    assert [id(p) for group in groups for p in group["params"]] == [id(model[0].weight)]
