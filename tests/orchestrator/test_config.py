from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from data.config import DataConfig, DriftConfig
from data.tokenizer import TokenizerConfig
from models.configs import GPTConfig
from orchestrator.config import (
    EngineConfig,
    JobConfig,
    OptimConfig,
    ResourcesConfig,
    RoleConfig,
    RoleSettings,
    TrackingConfig,
    nearest_multiples,
    to_dict,
)
from orchestrator.config.roles import merged
from orchestrator.stages import saved
from orchestrator.stages.classify.stage import ClassifyConfig
from orchestrator.stages.pretrain.stage import PretrainConfig


def test_a_config_comes_back_from_its_yaml_as_it_was(tmp_path):
    before = JobConfig(
        stage=PretrainConfig(steps=7, prompts=["a: b"]),
        model=GPTConfig(width=36, heads=3, vocab_size=300, weights="x", weights_role="a"),
        roles={"model": RoleSettings(engine={"zero_stage": 2})},
        tokenizer=TokenizerConfig(kind="bytes"),
        optim=OptimConfig(warmup_steps=1, gradient_clip=None),
        resume="there",
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(before)))
    assert saved.load(path) == before


def test_a_config_file_with_an_unknown_setting_is_refused(tmp_path):
    plain = to_dict(JobConfig(stage=PretrainConfig(), model=GPTConfig())) | {"colour": "red"}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(plain))
    with pytest.raises(ValueError, match="colour"):
        saved.load(path)


@given(st.integers(1, 200), st.integers(1, 12), st.none() | st.integers(1, 12))
def test_a_batch_is_either_shared_evenly_or_refused_with_sizes_that_would_be(batch, workers, micro):
    stage = PretrainConfig(global_batch_size=batch, micro_batch_size=micro)
    unit = workers * (micro or 1)
    try:
        job = JobConfig(stage=stage, model=GPTConfig(), resources=ResourcesConfig(workers=workers))
    except ValueError as refused:
        assert batch % unit
        offered = str(refused).partition("nearest: ")[2].partition(";")[0]
        for legal in offered.split(", "):
            JobConfig(
                stage=replace(stage, global_batch_size=int(legal)),
                model=GPTConfig(),
                resources=ResourcesConfig(workers=workers),
            )
        fewer = str(refused).partition("or try resources.workers=")[2]
        if fewer:
            JobConfig(stage=stage, model=GPTConfig(), resources=ResourcesConfig(workers=int(fewer)))
    else:
        assert job.batch.micro * job.batch.accumulation_steps * workers == batch


def test_nearest_multiples_are_on_both_sides_and_above_zero():
    assert nearest_multiples(30, 8) == "24, 32"
    assert nearest_multiples(3, 8) == "8"


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        (PretrainConfig, {"steps": 0}, "stage.steps=0 must be at least 1; try stage.steps=1"),
        (PretrainConfig, {"micro_batch_size": 0}, "stage.micro_batch_size=0"),
        (PretrainConfig, {"sample_tokens": -1}, "stage.sample_tokens=-1 must be at least 0"),
        (PretrainConfig, {"checkpoint_every_minutes": 0.0}, "checkpoint_every_minutes=0.0 must be"),
        (
            PretrainConfig,
            {"keep_every": 250, "checkpoint_every": 100},
            "stage.keep_every=250 must be a multiple of stage.checkpoint_every=100; nearest: 200, "
            "300",
        ),
        (
            PretrainConfig,
            {"keep_every": 5, "checkpoint_every": None},
            "which is not set; try stage.checkpoint_every=5",
        ),
        (PretrainConfig, {"min_delta": 0.1}, "stage.min_delta=0.1 is for stage.patience"),
        (PretrainConfig, {"patience": 3, "min_delta": -1.0}, "stage.min_delta=-1.0 must be"),
        (
            PretrainConfig,
            {"best_metric": "validation/loss"},
            "stage.best_metric=validation/loss is for stage.keep_best and stage.patience",
        ),
        (
            PretrainConfig,
            {"patience": 4, "steps": 100, "evaluate_every": 25},
            "evaluated 3 times before its last step, stage.steps=100, stage.evaluate_every=25; "
            "try stage.evaluate_every=19",
        ),
        (PretrainConfig, {"patience": 4, "evaluate_every": None}, "try stage.evaluate_every=42"),
        (
            PretrainConfig,
            {"sample_at_evaluations": True, "sample_tokens": 0},
            "stage.sample_at_evaluations=true, but stage.sample_tokens=0 leaves nothing to write",
        ),
        (OptimConfig, {"schedule": "cosin"}, "did you mean cosine?"),
        (OptimConfig, {"name": "adamx"}, "optim.name=adamx is not one of adamw, adam, sgd"),
        (
            OptimConfig,
            {"name": "sgd", "beta2": 0.9},
            "optim.beta2=0.9: optim.name=sgd has no such setting, only optim.learning_rate, "
            "optim.momentum, optim.nesterov, optim.weight_decay; leave it out",
        ),
        (OptimConfig, {"momentum": 0.9}, "optim.momentum=0.9: optim.name=adamw has no such"),
        (
            OptimConfig,
            {"name": "sgd", "nesterov": True, "momentum": 0.0},
            "optim.nesterov=true looks ahead along the momentum, but optim.momentum=0",
        ),
        (OptimConfig, {"beta2": 1.0}, "optim.beta2=1.0 must lie in"),
        (OptimConfig, {"learning_rate": 0.0}, "optim.learning_rate=0.0 must be greater than 0"),
        (OptimConfig, {"learning_rate": float("inf")}, "must be greater than 0 and finite"),
        (OptimConfig, {"weight_decay": float("nan")}, "optim.weight_decay=nan must be at least 0"),
        (OptimConfig, {"final_fraction": float("nan")}, "optim.final_fraction=nan must lie in"),
        (EngineConfig, {"zero_stage": 4}, "engine.zero_stage=4 must be 0, 1, 2 or 3"),
        (
            EngineConfig,
            {"name": "torch", "zero_stage": 2},
            "engine.zero_stage=2 is not for engine.name=torch, which shards nothing; leave it "
            "out, or try engine=zero2",
        ),
        (EngineConfig, {"precision": "fp16"}, "engine.precision=fp16 is not one of fp32, bf16"),
        (EngineConfig, {"offload_parameters": True}, "try engine=zero3_offload"),
        (EngineConfig, {"zero_stage": 0, "offload_optimizer": True}, "try engine=zero2_offload"),
        (ResourcesConfig, {"gpus_per_worker": 2}, "resources.gpus_per_worker=2 must be 0 or 1"),
        (ResourcesConfig, {"workers": 0}, "resources.workers=0 must be at least 1"),
    ],
)
def test_a_wrong_value_is_refused_with_its_setting_and_what_it_must_be(section, values, said):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # the message is compared below
        section(**values)
    assert said in str(refused.value)


def test_a_home_folder_is_filled_in_wherever_a_setting_is_a_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    job = JobConfig(
        stage=PretrainConfig(),
        model=GPTConfig(max_positions=256, weights="~"),
        data=DataConfig(drift=DriftConfig(reference="~/old")),
        roles={"model": RoleSettings(model={"weights": "~/a b"})},
        tracking=TrackingConfig(uri="sqlite:///~/mlflow.db", name="~/b"),
        outputs="~/runs/",
        resume="./~/c",
    )
    assert job.outputs == f"{tmp_path}/runs/"
    assert (job.model.weights, job.role("model").model.weights) == (
        str(tmp_path),
        f"{tmp_path}/a b",
    )
    assert job.data.drift.reference == f"{tmp_path}/old"
    assert (job.tracking.uri, job.tracking.name) == (f"sqlite:///{tmp_path}/mlflow.db", "~/b")
    assert job.resume == "./~/c"
    assert ClassifyConfig(data="~/t.csv").data == f"{tmp_path}/t.csv"
    with pytest.raises(ValueError, match="outputs=~nobody-of-this-name/x: the home folder of"):
        JobConfig(outputs="~nobody-of-this-name/x")


def test_what_is_left_open_gets_the_optimizers_own_defaults_also_in_a_role():
    assert (OptimConfig().beta2, OptimConfig(name="adam").beta2) == (0.95, 0.999)
    assert OptimConfig(name="lion", beta1=0.5).beta1 == 0.5
    adamw = OptimConfig(weight_decay=0.7, warmup_steps=3)
    assert merged("roles.x.optim", adamw, {"beta1": 0.5}).weight_decay == 0.7
    sgd = merged("roles.x.optim", adamw, {"name": "sgd"})
    assert sgd == OptimConfig(name="sgd", warmup_steps=3)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_muon_is_refused_where_zero_would_cut_its_matrices(stage):
    muon = OptimConfig(name="muon")
    with pytest.raises(ValueError, match="muon needs whole matrices"):
        RoleConfig(GPTConfig(), EngineConfig(zero_stage=stage), muon)
    for whole in (EngineConfig(zero_stage=0), EngineConfig(name="torch")):
        assert RoleConfig(GPTConfig(), whole, muon).optim is muon
