import json
import subprocess
import sys
from dataclasses import fields, replace

import pytest
from omegaconf import OmegaConf

from models import MODELS, build, config_from_dict, config_to_dict
from models.configs import (
    GPTConfig,
    LanguageModelConfig,
    MLPConfig,
    ModelConfig,
    language,
    of_features,
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 130}, "model.width=130 must be a multiple of model.heads=4; nearest: 128, 132"),
        ({"width": 3}, "nearest: 4"),
        (
            {"width": 130, "positions": "rotary"},
            "model.width=130 must be a multiple of model.heads=4; nearest: 128, 136",
        ),
        (
            {"width": 132, "positions": "rotary"},
            "the head width must be even, but model.width=132 / model.heads=4 = 33; "
            "set model.width, nearest: 128, 136",
        ),
        (
            {"width": 15, "heads": 3, "positions": "sinusoidal"},
            "model.width=15 must be even; nearest: 12, 18",
        ),
        (
            {"heads": 8, "kv_heads": 3},
            "model.heads=8 must be a multiple of model.kv_heads=3; nearest model.kv_heads: 2, 4",
        ),
        ({"heads": 4, "kv_heads": 8}, "nearest model.kv_heads: 4"),
        ({"norm": "rmsnrom"}, "must be one of layernorm, rmsnorm; did you mean rmsnorm?"),
        ({"positions": "rotery"}, "did you mean rotary?"),
        ({"activation": "swiglue"}, "did you mean swiglu?"),
        ({"family": "gtp"}, "model.family='gtp' must be one of gpt; did you mean gpt?"),
        ({"layers": 0}, "model.layers=0 must be a whole number of at least 1"),
        ({"layers": 10**7}, "model.layers=10000000 must be at most 10,000"),
        ({"width": 10**5000}, "model.width=a number of 16,610 bits must be at most 2,147,483,647"),
        (
            {"heads": 2**31 - 1, "width": 2**31 - 1, "kv_heads": 5},  # a prime
            "must be a multiple of model.kv_heads=5; nearest model.kv_heads: 1, 2147483647",
        ),
        ({"width": "128"}, "model.width='128' must be a whole number"),
        ({"kv_heads": -1}, "model.kv_heads=-1 must be"),
        ({"ffn_width": 0}, "model.ffn_width=0 must be"),
        ({"vocab_size": 0}, "model.vocab_size=0 must be"),
        ({"bias": 1}, "model.bias=1 must be true or false"),
        ({"dropout": 1.0}, "model.dropout=1.0 must be at least 0 and below 1"),
        ({"dropout": float("nan")}, "model.dropout=nan must be"),
        ({"dropout": "0.1"}, "model.dropout='0.1' must be a number"),
        ({"norm_eps": 0.0}, "model.norm_eps=0.0 must be above 0 and finite"),
        ({"weights": ""}, "model.weights='' must name a folder; null starts from random weights"),
        ({"rotary_base": float("inf")}, "model.rotary_base=inf must be above 0 and finite"),
    ],
)
def test_a_config_that_cannot_work_says_what_would(settings, message):
    with pytest.raises(ValueError, match=r"model\.") as error:
        GPTConfig(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("heads", [1, 2, 3, 5])
def test_the_nearest_widths_offered_are_accepted(positions, heads):
    for width in range(1, 40):
        try:
            GPTConfig(width=width, heads=heads, positions=positions)
        except ValueError as error:
            for offer in str(error).split("nearest: ")[1].split(", "):
                GPTConfig(width=int(offer), heads=heads, positions=positions)


def test_widths_left_out_follow_from_the_others():
    assert GPTConfig(width=128, heads=4).head_width == 32
    assert GPTConfig(heads=4).key_value_heads == 4
    assert GPTConfig(width=128, activation="gelu").feed_forward_width == 512
    assert GPTConfig(width=4096, activation="swiglu").feed_forward_width == 10944
    assert GPTConfig(width=96, activation="swiglu").feed_forward_width == 256  # exactly 8/3
    assert GPTConfig(width=128, ffn_width=100, activation="swiglu").feed_forward_width == 100


def test_omegaconf_composes_and_checks_the_config():
    composed = OmegaConf.merge(OmegaConf.structured(GPTConfig), {"layers": 2, "kv_heads": 2})
    config = OmegaConf.to_object(composed)
    assert config == GPTConfig(layers=2, kv_heads=2)
    with pytest.raises(ValueError, match="nearest: 128, 132"):
        OmegaConf.to_object(OmegaConf.merge(composed, {"width": 130}))


@pytest.mark.parametrize(
    "config",
    [
        GPTConfig(),
        GPTConfig(vocab_size=99, kv_heads=2, ffn_width=7, norm="rmsnorm", positions="rotary"),
        MLPConfig(inputs=3, hidden=[5, 4], outputs=2, activation="tanh", init="xavier"),
        MLPConfig(hidden=[]),
    ],
)
def test_a_config_survives_the_round_trip_through_json(config):
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"family": "gpt"}, "model.family='gpt' must be one of mlp"),
        ({"inputs": 0}, "model.inputs=0 must be a whole number of at least 1"),
        ({"outputs": 2.5}, "model.outputs=2.5 must be a whole number"),
        ({"hidden": [1] * 10_001}, "model.hidden has 10,001 layers and must have at most 10,000"),
        ({"hidden": [8, 0]}, "model.hidden[1]=0 must be a whole number of at least 1"),
        (
            {"activation": "rely"},
            "must be one of sigmoid, tanh, relu, gelu, identity; did you mean relu?",
        ),
        ({"init": "he"}, "model.init='he' must be one of kaiming, xavier"),
        ({"dropout": 1}, "model.dropout=1 must be at least 0 and below 1"),
    ],
)
def test_a_perceptron_that_cannot_work_says_what_would(settings, message):
    with pytest.raises(ValueError, match=r"model\.") as error:
        MLPConfig(**settings)
    assert message in str(error.value)


def test_where_weights_come_from_is_no_part_of_the_architecture():
    config = GPTConfig(layers=2, weights="outputs/latest")
    values = config_to_dict(config)
    assert "weights" not in values
    assert config_from_dict(values) == replace(config, weights=None)
    with pytest.raises(ValueError, match="'weights' is not one of"):
        config_from_dict({**values, "weights": "outputs/latest"})


def test_a_model_that_reads_no_tokens_is_no_language_model():
    assert language(GPTConfig()) == GPTConfig()
    with pytest.raises(ValueError, match=r"model\.family=mlp is no language model.*stage=classify"):
        language(MLPConfig())


def test_a_model_of_tokens_reads_no_features():
    assert of_features(MLPConfig()) == MLPConfig()
    with pytest.raises(ValueError, match=r"model\.family=gpt does not read .*try model=mlp"):
        of_features(GPTConfig())


def test_a_dict_with_missing_keys_gets_defaults():
    assert config_from_dict({"family": "gpt", "layers": 2}) == GPTConfig(layers=2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"layers": 2}, "names no family; known families: gpt, "),
        (
            {"family": "gpd"},
            "'gpd' is not one of .*; did you mean gpt?",
        ),
        ({"family": ["gpt"]}, "unknown model.family"),
        ({"family": "gpt", "layer": 2}, "'layer' is not one of .*; did you mean layers?"),
        ({"family": "gpt", "width": 130}, "nearest: 128, 132"),
    ],
)
def test_a_wrong_dict_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        config_from_dict(values)


def test_build_needs_a_vocabulary_and_a_known_family():
    with pytest.raises(ValueError, match=r"model\.vocab_size is not set"):
        build(GPTConfig())
    with pytest.raises(ValueError, match=r"model\.family='other' is no family for a ModelConfig"):
        build(ModelConfig(family="other"))
    with pytest.raises(ValueError, match=r"'gpt' is no family for a LanguageM.*: gpt, "):
        build(LanguageModelConfig(family="gpt", vocab_size=10))
    assert build(replace(GPTConfig(layers=1, width=8, heads=1), vocab_size=10))


def test_every_family_has_a_default_config_that_names_it():
    for name, family in MODELS.items():
        assert family.config().family == name
        assert {field.name for field in fields(family.config)} > {"family", "weights"}


def test_a_model_without_memory_is_built_without_the_compiler_of_torch():
    code = (
        "import sys, torch, models\n"
        "from models.configs import GPTConfig, MLPConfig\n"
        "with torch.device('meta'):\n"
        "    models.build(GPTConfig(vocab_size=9)), models.build(MLPConfig(inputs=2, outputs=2))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_configs_and_costs_need_no_torch():
    code = (
        "import sys, models, models.cost\n"
        "models.cost.parameters(models.config_from_dict({'family': 'gpt', 'vocab_size': 9}))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
