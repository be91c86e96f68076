import math

import pytest
import torch
from torch import nn

from orchestrator.config import OptimConfig
from orchestrator.config.optim import OPTIMIZERS
from orchestrator.training.optim import STATE_KEYS, build, learning_rate

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


SIZES = {"matrix": (6, 4), "tall": (9, 3), "vector": (5,)}


def gradients(step):
    """Made-up gradients of a model with parameters of these sizes."""
    torch.manual_seed(step)
    return {name: torch.randn(size) for name, size in SIZES.items()}


def trained(make, steps=6):
    """Parameters after steps of `make(named parameters)`, with a rate that changes."""
    torch.manual_seed(0)
    parameters = {name: nn.Parameter(torch.randn(size)) for name, size in SIZES.items()}
    step = make(parameters)
    for number in range(1, steps + 1):
        for name, gradient in gradients(number).items():
            parameters[name].grad = gradient.clone()
        step(number, 0.01 * number)
    return {name: p.detach() for name, p in parameters.items()}


def ours(config):
    def make(parameters):
        model = nn.Module()
        for name, parameter in parameters.items():
            model.register_parameter(name, parameter)
        optimizer = build(model, config)

        def step(number, rate):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

        return step

    return trained(make)


def of_torch(kind, l1=0.0, **settings):
    """torch's optimizer, with a decay of 0.3 and an L1 penalty for matrices alone."""

    def make(parameters):
        matrices = [p for p in parameters.values() if p.dim() > 1]
        groups = [
            {"params": matrices, "weight_decay": 0.3},
            {"params": [parameters["vector"]], "weight_decay": 0.0},
        ]
        optimizer = kind(groups, **settings, foreach=False)

        def step(number, rate):
            for group in optimizer.param_groups:
                group["lr"] = rate
            for matrix in matrices:
                matrix.grad += l1 * torch.sign(matrix.detach())
            optimizer.step()

        return step

    return trained(make)


def close(got, expected, tolerance=1e-6):
    for name, value in expected.items():
        assert torch.allclose(got[name], value, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize(
    ("name", "settings", "kind", "theirs"),
    [
        ("adamw", {"beta1": 0.8}, torch.optim.AdamW, {"betas": (0.8, 0.95), "eps": 1e-8}),
        ("adam", {"beta2": 0.9}, torch.optim.Adam, {"betas": (0.9, 0.9), "eps": 1e-8}),
        ("sgd", {}, torch.optim.SGD, {"momentum": 0.9}),
        ("sgd", {"nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        ("sgd", {"momentum": 0.0}, torch.optim.SGD, {}),
        ("adagrad", {"epsilon": 1e-3}, torch.optim.Adagrad, {"eps": 1e-3}),
        ("rmsprop", {}, torch.optim.RMSprop, {"alpha": 0.99, "eps": 1e-8}),
        ("rmsprop", {"momentum": 0.5}, torch.optim.RMSprop, {"momentum": 0.5}),
        ("sgd", {"l1": 0.7}, torch.optim.SGD, {"momentum": 0.9, "l1": 0.7}),
        ("adamw", {"l1": 0.7}, torch.optim.AdamW, {"betas": (0.9, 0.95), "l1": 0.7}),
    ],
)
def test_optimizers_of_the_table_take_the_steps_of_torch(name, settings, kind, theirs):
    close(ours(OptimConfig(name=name, weight_decay=0.3, **settings)), of_torch(kind, **theirs))


def test_lion_takes_the_steps_of_algorithm_2_of_its_paper_number_by_number():
    def make(parameters):
        means = {name: torch.zeros_like(p) for name, p in parameters.items()}

        def step(number, rate):
            for name, p in parameters.items():
                decay = 0.3 if p.dim() > 1 else 0.0
                flat, mean, grad = p.data.view(-1), means[name].view(-1), p.grad.view(-1)
                for i in range(len(flat)):
                    g, m = float(grad[i]), float(mean[i])
                    update = math.copysign(1.0, 0.9 * m + 0.1 * g) + decay * float(flat[i])
                    flat[i] -= rate * update
                    mean[i] = 0.99 * m + 0.01 * g

        return step

    close(ours(OptimConfig(name="lion", weight_decay=0.3)), trained(make), 1e-5)


def svd_orthogonal(matrix):
    """What Newton-Schulz does to the singular values, done to them."""
    u, s, v = torch.linalg.svd(matrix / matrix.norm(), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_orthogonalises_matrices_and_leaves_vectors_to_adamw(nesterov):
    def make(parameters):
        means = {name: torch.zeros_like(p) for name, p in parameters.items()}
        vector = torch.optim.AdamW([parameters["vector"]], betas=(0.9, 0.95), weight_decay=0)

        def step(number, rate):
            for name in ("matrix", "tall"):
                p = parameters[name]
                means[name] = 0.95 * means[name] + 0.05 * p.grad
                update = 0.95 * means[name] + 0.05 * p.grad if nesterov else means[name]
                size = 0.2 * math.sqrt(max(p.shape))
                p.data = p.data * (1 - rate * 0.3) - rate * size * svd_orthogonal(update)
            vector.param_groups[0]["lr"] = rate
            vector.step()

        return step

    got = ours(OptimConfig(name="muon", weight_decay=0.3, nesterov=nesterov))
    expected = trained(make)
    close({"vector": got["vector"]}, {"vector": expected["vector"]})
    close(got, expected, 0.02)  # in bf16
    if hasattr(torch.optim, "Muon"):
        settings = {"momentum": 0.95, "nesterov": nesterov, "adjust_lr_fn": "match_rms_adamw"}

        def theirs(parameters):
            muon = torch.optim.Muon(
                [parameters["matrix"], parameters["tall"]], weight_decay=0.3, **settings
            )

            def step(number, rate):
                muon.param_groups[0]["lr"] = rate
                muon.step()

            return step

        matrices = trained(theirs)
        close(got, {name: matrices[name] for name in ("matrix", "tall")})


def test_muon_keeps_tables_of_embeddings_for_adamw_and_flattens_convolutions():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Conv1d(3, 4, 2), nn.Linear(4, 2))
    optimizer = build(model, OptimConfig(name="muon"))
    kinds = {id(p): g["orthogonal"] for g in optimizer.param_groups for p in g["params"]}
    assert [kinds[id(p)] for p in model.parameters()] == [False, True, False, True, False]
    before = model[1].weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape)
    for group in optimizer.param_groups:
        group |= {"lr": 1.0, "weight_decay": 0.0}
    optimizer.step()
    moved = (before - model[1].weight).detach().flatten(1) / (0.2 * math.sqrt(6))
    values = torch.linalg.svdvals(moved)
    assert 0.6 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_config_says_is_kept_is_what_an_optimizer_keeps(name):
    config = OptimConfig(name=name)
    model = nn.Linear(3, 4)
    optimizer = build(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    state = optimizer.state[model.weight]
    kept = {k for k, v in state.items() if torch.is_tensor(v) and v.shape == model.weight.shape}
    assert kept == set(config.state)
    for group in optimizer.param_groups:
        for p in group["params"]:
            kept = {k for k, v in optimizer.state[p].items() if torch.is_tensor(v) and v.dim()}
            assert kept == set(group[STATE_KEYS])
