"""Models made module by module are those that their constructors make, and none is held whole."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import models
from models.configs import (
    BertConfig,
    ByHandConfig,
    CBOWConfig,
    GPTConfig,
    LSTMConfig,
    MLPConfig,
    RNNConfig,
    SkipGramConfig,
    TransformerConfig,
    WindowConfig,
)
from orchestrator.training import distributed
from orchestrator.training.engine import build
from orchestrator.training.materialise import materialise, on_meta
from tests.orchestrator import tiny
from tests.orchestrator.gathered import Memory, gathered

CPU = torch.device("cpu")
SMALL = GPTConfig(vocab_size=31, max_positions=8, layers=2, width=16, heads=2)
CONFIGS = {
    "gpt2": SMALL,
    "llama": replace(
        SMALL,
        norm="rmsnorm",
        positions="rotary",
        activation="swiglu",
        bias=False,
        tied_embedding=False,
        kv_heads=1,
    ),
    "sinusoidal": replace(SMALL, positions="sinusoidal", init_std=0.3),
    "rnn": RNNConfig(vocab_size=31, width=6),
    "lstm": LSTMConfig(vocab_size=31, width=6, tied_embedding=False),
    "window": WindowConfig(vocab_size=31, width=4, hidden=6),
    "transformer": TransformerConfig(vocab_size=31, max_positions=8, width=16, heads=2),
    "bert": BertConfig(vocab_size=31, max_positions=8, width=16, heads=2),
    "cbow": CBOWConfig(vocab_size=31, width=6),
    "skipgram": SkipGramConfig(vocab_size=31, width=6),
    "mlp_by_hand": ByHandConfig(inputs=6, outputs=3),
    "mlp": MLPConfig(inputs=6, outputs=3),
}


def tied():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    model[1].weight = model[0].weight
    return model


FUNCTIONS = {
    "recurrent": lambda: nn.Sequential(nn.LSTM(3, 4, num_layers=2), nn.Linear(4, 2)),
    "with buffers": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.PReLU()),
}


@pytest.mark.parametrize("make", [*CONFIGS.values(), *FUNCTIONS.values()])
def test_a_model_made_module_by_module_is_bit_for_bit_that_of_its_constructor(make):
    torch.manual_seed(5)
    expected = make() if callable(make) else models.build(make)
    torch.manual_seed(6)
    before = torch.get_rng_state()
    model = on_meta(make)
    materialise(model, CPU, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name


def test_every_family_of_models_is_tested_above():
    of_others = {"hf"}  # made by transformers
    assert {config.family for config in CONFIGS.values()} == set(models.MODELS) - of_others


def test_shared_parameters_stay_shared_and_are_made_once():
    model, made = on_meta(tied), []
    materialise(model, CPU, seed=0, made=made.append)
    assert model[1].weight is model[0].weight
    assert [id(p) for p in made] == [id(model[0].weight)]


def test_a_module_that_draws_in_its_constructor_alone_is_refused_by_name():
    """torch's attention also sets values of its child, which is not made yet."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    for make, name in ((Scale, "Scale"), (lambda: nn.MultiheadAttention(8, 2), "MultiheadAttent")):
        with pytest.raises(TypeError, match=rf"{name}.* has parameters.*no method reset_para"):
            materialise(on_meta(make), CPU, seed=0)


def test_no_more_than_one_module_is_ever_whole():
    model, held = on_meta(CONFIGS["llama"]), []
    largest = max(sum(p.numel() for p in m.parameters(False)) for m in model.modules())

    def shard(parameter):
        parameters = [p for p in model.parameters() if not p.is_meta]
        held.append(sum(p.untyped_storage().nbytes() for p in parameters) // 4)
        parameter.data = torch.empty(0)

    materialise(model, CPU, seed=0, made=shard)
    assert len(held) == len(list(model.parameters()))
    assert 0 < max(held) <= largest


def started(jobs):
    """The state of each engine before its first step."""
    return {name: gathered(tiny.build(config)).tensors for name, config in jobs.items()}


def test_every_engine_on_any_number_of_ranks_starts_from_the_same_values(one, two):
    names = ("zero0", "zero1", "zero2", "zero3")
    precise = {name: tiny.job(name, 2) for name in names}
    half = {f"{name} bf16": tiny.job(name, 2, precision="bf16") for name in names}
    torch.manual_seed(precise["zero0"].seed)
    expected = dict(models.build(precise["zero0"].model).named_parameters())
    answers = [
        *one.run(started, {"torch": tiny.job("torch"), "zero3": tiny.job("zero3")}),
        *two.run(started, precise | half),
    ]
    for answer in answers:
        for name, whole in answer.items():
            assert whole.keys() == expected.keys()
            for parameter, value in expected.items():
                rounded = value.bfloat16().float() if "bf16" in name else value
                assert torch.equal(whole[parameter]["weight"], rounded), (name, parameter)


STARTS = (("zero0", "fp32"), ("zero1", "fp32"), ("zero3", "fp32"), ("zero3", "bf16"))


def from_saved(saved):
    """Logits of engines that start from saved weights, trained and frozen."""
    tokens = torch.arange(12)[None] % tiny.VOCAB
    logits = {}
    for name, precision in (
        ("zero0", "fp32"),
        ("zero1", "fp32"),
        ("zero3", "fp32"),
        ("zero3", "bf16"),
    ):
        config = tiny.job(name, distributed.world_size(), precision=precision)
        for optim in (config.optim, None):
            trainer = build(config.model, config.engine, optim, device=CPU, seed=9, reader=saved)
            assert trainer.model.training is (optim is not None)
            with torch.no_grad():
                logits[name, precision, optim is None] = trainer.forward(tokens).float()
            if optim is None:
                with pytest.raises(RuntimeError, match="its model is frozen"):
                    trainer.step(0.1)
    return logits


def test_engines_start_from_saved_weights_trained_or_frozen(two):
    torch.manual_seed(1)
    model = models.build(tiny.job().model)
    saved = Memory({name: {"weight": p.detach()} for name, p in model.named_parameters()})
    expected = model(torch.arange(12)[None] % tiny.VOCAB).detach()
    for logits in two.run(from_saved, saved):
        for (name, precision, frozen), got in logits.items():
            tolerance = 1e-5 if precision == "fp32" else 0.02
            assert torch.allclose(got, expected, atol=tolerance), (name, precision, frozen)
