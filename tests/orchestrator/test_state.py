"""The state of engines as slices: whole over all ranks, read once, and good in any other engine."""

from dataclasses import dataclass, field

import pytest
import torch

from orchestrator.config import OptimConfig
from orchestrator.training import distributed
from orchestrator.training.engine import build
from orchestrator.training.state import WEIGHT, DifferentState
from tests.orchestrator import tiny
from tests.orchestrator.gathered import gathered

SAVED_AT, STEPS = 3, 6
OTHERS = {
    "adam": {"learning_rate": 2e-2},
    "sgd": {"learning_rate": 0.3},
    "adagrad": {"learning_rate": 5e-2},
    "rmsprop": {"learning_rate": 3e-3, "momentum": 0.9},
    "lion": {"learning_rate": 3e-3},
    "muon": {"learning_rate": 2e-2},
}
"""Rates at which a few steps tell optimizers apart."""
ELEMENTWISE = ("adamw", "adam", "sgd", "adagrad", "rmsprop", "lion")


def losses_of(config, trainer, steps, start=0):
    losses = []
    tiny.run(config, trainer, steps, start=start, log=lambda s, m: losses.append(m["train/loss"]))
    return losses


def train_and_save(configs):
    """For each job its losses to the end, and its state on the way."""
    answer = {}
    for name, config in configs.items():
        trainer = tiny.build(config)
        losses = losses_of(config, trainer, SAVED_AT)
        saved = gathered(trainer)
        answer[name] = losses + losses_of(config, trainer, STEPS, SAVED_AT), saved
    return answer


def go_on(cases, optimizer=True):
    """For each job and saved state: the losses after it, and how much this rank has read."""
    answer = {}
    for name, (config, saved) in cases.items():
        trainer = tiny.build(config)
        tiny.run(config, trainer, 1)  # an engine in use takes a state as well as a new one
        saved.elements_read = 0
        trainer.load_state(saved, SAVED_AT, optimizer=optimizer)
        answer[name] = losses_of(config, trainer, STEPS, SAVED_AT), saved.elements_read
    return answer


def job(engine, world_size=1, optimizer="adamw", **settings):
    config = tiny.job(engine, world_size, **settings)
    if optimizer != "adamw":
        config.optim = OptimConfig(name=optimizer, warmup_steps=2, **OTHERS[optimizer])
    return config


VARIANTS = {
    **{(f"zero{stage}", "fp32"): {} for stage in range(4)},
    **{(f"zero{stage}", "bf16"): {"precision": "bf16"} for stage in range(4)},
    ("zero1", "offloaded"): {"offload_optimizer": True},
    ("zero3", "offloaded"): {"offload_optimizer": True, "offload_parameters": True},
}


def test_slices_of_two_ranks_are_the_whole_state_once_and_bring_back_the_same_run(two):
    configs = {key: job(key[0], 2, **settings) for key, settings in VARIANTS.items()}
    runs = two.run(train_and_save, configs)[0]
    for key, (_, saved) in runs.items():
        assert all(torch.all(count == 1) for count in saved.counts.values()), key
        for name in saved.names():
            assert saved.keys(name) == {WEIGHT, "exp_avg", "exp_avg_sq"}, (key, name)
    cases = {key: (configs[key], saved) for key, (_, saved) in runs.items()}
    answers = two.run(go_on, cases)
    for key, (losses, saved) in runs.items():
        for rank in answers:
            assert rank[key][0] == pytest.approx(losses[SAVED_AT:], rel=1e-6), key
        assert sum(rank[key][1] for rank in answers) == saved.elements, key


@pytest.fixture(scope="module")
def runs(one):
    """Losses and state of one process of plain PyTorch, for each optimizer."""
    return one.run(train_and_save, {o: job("torch", 1, o) for o in (*ELEMENTWISE, "muon")})[0]


def test_every_optimizer_trains_alike_in_every_engine_and_goes_on_in_any_other(one, two, runs):
    engines = dict.fromkeys(("zero1", "zero3"), ELEMENTWISE)  # 2 splits as 1 does, 0 not at all
    engines |= {"zero2": ("adamw", "lion"), "zero0": ("adamw", "sgd", "muon")}
    configs = {(e, o): job(e, 2, o) for e, optimizers in engines.items() for o in optimizers}
    shared = two.run(train_and_save, configs)[0]
    for (engine, optimizer), (losses, saved) in shared.items():
        expected, alone = runs[optimizer]
        near = {"rel": 1e-4 if optimizer in ("adamw", "sgd", "muon") else 1e-3}
        assert losses == pytest.approx(expected, **near), (engine, optimizer)
        for name, tensors in alone.tensors.items():
            assert saved.keys(name) == set(tensors), (engine, optimizer, name)
    onwards = {key: (job("torch", 1, key[1]), saved) for key, (_, saved) in shared.items()}
    back = {key: (configs[key], runs[key[1]][1]) for key in shared}
    for answers in (one.run(go_on, onwards)[0], two.run(go_on, back)[0]):
        for (engine, optimizer), (losses, _) in answers.items():
            expected = runs[optimizer][0][SAVED_AT:]
            assert losses == pytest.approx(expected, rel=1e-3), (engine, optimizer)


def test_each_optimizer_goes_its_own_way_and_its_lost_state_would_show(one, runs):
    for optimizer, (losses, _) in runs.items():
        for other, (theirs, _) in runs.items():
            assert other == optimizer or losses != pytest.approx(theirs, rel=1e-3), (
                optimizer,
                other,
            )
    spoiled = {o: (job("torch", 1, o), runs[o][1]) for o in runs}
    for optimizer, (losses, _) in one.run(go_on, spoiled, False)[0].items():
        expected = runs[optimizer][0][SAVED_AT:]
        assert losses[0] == pytest.approx(expected[0], rel=1e-6)  # of the same weights
        assert losses != pytest.approx(expected, rel=1e-3), optimizer


@dataclass
class Refusals:
    """What loading a state says, on each engine."""

    said: list[str] = field(default_factory=list)

    def note(self, trainer, saved):
        with pytest.raises(DifferentState) as caught:
            trainer.load_state(saved, SAVED_AT)
        self.said.append(str(caught.value))


def refusals(names, saved, other):
    wider, deeper, adagrad = Refusals(), Refusals(), Refusals()
    for name in names:
        config = tiny.job(name, distributed.world_size())
        adagrad.note(tiny.build(config), other)
        config.model.ffn_width = 96
        wider.note(tiny.build(config), saved)
        config = tiny.job(name, distributed.world_size())
        config.model.layers = 3
        deeper.note(tiny.build(config), saved)
        with pytest.raises(DifferentState, match=r"blocks\.2\.attention_norm\.weight is absent"):
            build(config.model, config.engine, None, device=torch.device("cpu"), reader=saved)
    return wider.said, deeper.said, adagrad.said


def test_state_of_another_model_or_optimizer_is_refused_by_the_first_tensor(two, runs):
    arguments = ("zero0", "zero1", "zero3"), runs["adamw"][1], runs["adagrad"][1]
    for wider, deeper, adagrad in two.run(refusals, *arguments):
        words = "blocks.0.ffn.up.weight is of shape (256, 32) there and of shape (192, 32) in"
        assert all(words in said for said in wider), wider
        assert all("blocks.2.attention_norm.weight is absent there" in said for said in deeper)
        assert all("holds sum, while optim.name=adamw keeps exp_avg" in said for said in adagrad)
