"""Every YAML in conf/ composes, passes every check, and has a plan."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import models
from models import cost
from orchestrator.compose.schema import register
from orchestrator.plan.planning import rough_plan
from tests.orchestrator.typed import trained

OWN = ("config.yaml", "prices.yaml", "__init__.py")
CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(
    f"{file.parent.name}={file.stem}"
    for file in CONF.glob("*/*.yaml")
    if file.parent.name not in ("pipeline", "sweep")  # no groups of a job
)
# What a choice leaves to the user.
NEEDS = {
    "data=text": "data.path=x",
    "data=jsonl": "data.path=x",
    "data=csv": "data.path=x",
    "data=parquet": "data.path=x",
    "data=hf": "data.path=x",
    "experiment=gpt2_1558m_8gpu": "data.path=x",
    "experiment=llama_1b_8gpu": "data.path=x",
    "experiment=llama_8b_64gpu": "data.path=x",
    "engine=torch": "resources=cpu1",
    "optim=muon": "engine=zero0",
    "model=cbow": "stage=embed",
    "model=skipgram": "stage=embed",
    "model=mlp": "stage=classify",
    "model=mlp_by_hand": "stage=classify",
    "model=transformer": "stage=translate",
    "model=bert_tiny": "stage=masked",
    "experiment=mnist_by_hand": "model.inputs=784 model.outputs=10",  # without the package
    "tracking=server": "tracking.uri=http://127.0.0.1:5000",
    "resources=gpu8": "stage.global_batch_size=64",
    "resources=gpu64": "stage.global_batch_size=64",
}


@pytest.fixture(scope="module", autouse=True)
def hydra(corpus):
    trained(corpus)  # composes by itself, which Hydra allows one at a time
    register()
    with initialize_config_module("conf", version_base="1.3"):
        yield


def job(*overrides):
    return OmegaConf.to_object(compose("config", list(overrides)))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_has_a_plan(choice, tmp_path, monkeypatch, corpus):
    monkeypatch.chdir(tmp_path)
    overrides = [choice, *NEEDS.get(choice, "").split()]
    if choice == "tokenizer=file":
        _write_tokenizer(tmp_path / "tokenizer.json")
        overrides.append("tokenizer.path=tokenizer.json")
    if choice == "stage=evaluate":
        overrides += [f"checkpoint={trained(corpus)}", "data.sequence_length=32"]
    if choice == "stage=judge":
        overrides += ["stage.data=pairs.jsonl", f"stage.judge.model={trained(corpus)}"]
    if choice == "stage=constitution":
        overrides.append(f"stage.writer.model={trained(corpus)}")
    if choice in ("stage=dpo", "stage=grpo", "stage=ppo"):
        overrides.append(f"model.weights={trained(corpus)}")
    plan = rough_plan(job(*overrides))
    assert plan.parameters > 0
    assert all(line.strip() for line in plan.lines())


def test_there_is_nothing_else_in_conf():
    known = {*CONF.glob("*/*.yaml"), *(CONF / name for name in OWN)}
    assert {file for file in CONF.rglob("*") if file.suffix in (".yaml", ".py", ".yml")} == known


# Published sizes. GPT-2: Radford et al. 2019 as corrected in its repository (124M, 355M, 774M,
# 1558M). Llama 3 8B: 8.03B, and Llama 3.2 1B: 1.24B, by their model cards.
@pytest.mark.parametrize(
    ("model", "vocab_size", "published"),
    [
        ("gpt2_124m", 50257, 124e6),
        ("gpt2_355m", 50257, 355e6),
        ("gpt2_774m", 50257, 774e6),
        ("gpt2_1558m", 50257, 1558e6),
        ("llama_1b", 128256, 1.24e9),
        ("llama_8b", 128256, 8.03e9),
    ],
)
def test_a_named_model_has_the_published_number_of_parameters(model, vocab_size, published):
    config = replace(job(f"model={model}").model, vocab_size=vocab_size)
    with torch.device("meta"):
        built = models.build(config)
    counted = sum(parameter.numel() for parameter in built.parameters())
    assert cost.parameters(config) == counted
    assert counted == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("experiment", "parameters", "tokens_per_step", "tokens"),
    [
        ("gpt2_124m_8gpu", 124e6, 0.5e6, 10e9),
        ("gpt2_1558m_8gpu", 1558e6, 1e6, 30e9),
        ("llama_1b_8gpu", 1.24e9, 1e6, 25e9),
        ("llama_8b_64gpu", 8.03e9, 4e6, 168e9),
    ],
)
def test_a_large_experiment_is_of_the_size_its_file_says(
    experiment, parameters, tokens_per_step, tokens
):
    needs = NEEDS.get(f"experiment={experiment}")
    plan = rough_plan(job(f"experiment={experiment}", *filter(None, [needs])))
    assert plan.parameters == pytest.approx(parameters, rel=0.005)
    assert plan.outline.tokens_per_step == pytest.approx(tokens_per_step, rel=0.05)
    assert plan.tokens == pytest.approx(tokens, rel=0.01)
    assert plan.config.resources.gpus_per_worker == 1
    assert plan.config.engine.precision == "bf16"
    # What is left of an 80 GB card after the state must hold the activations.
    assert plan.memory.total < 20e9


def test_precision_follows_the_device_of_the_job():
    assert job("resources=gpu1").engine.precision == "bf16"


def _write_tokenizer(path):
    from tokenizers import Tokenizer, models

    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(path))
