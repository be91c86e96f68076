"""The table of model families, and what is done with a config by its family."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from models.configs import (
    BertConfig,
    ByHandConfig,
    CBOWConfig,
    GPTConfig,
    HFConfig,
    LSTMConfig,
    MLPConfig,
    ModelConfig,
    RNNConfig,
    SkipGramConfig,
    TokenModelConfig,
    TransformerConfig,
    WindowConfig,
)
from models.configs.checks import did_you_mean
from models.formulas.blocks import bert_cost, transformer_cost
from models.formulas.cost import Cost
from models.formulas.gpt import gpt_cost
from models.formulas.mlp import mlp_cost
from models.formulas.recurrent import recurrent_cost
from models.formulas.window import window_cost
from models.formulas.word_vectors import word_vectors_cost
from models.hf.cost import hf_cost

if TYPE_CHECKING:
    from torch import nn

NOT_ARCHITECTURE = (
    "weights",
    "weights_role",
    "allow_pickle",
)  # settings that say where a model comes from, not what it is


@dataclass(frozen=True)
class Family:
    """One family of models; nothing outside of this package tells families apart."""

    config: type[ModelConfig]
    """Its sizes and choices."""
    module: str
    """MODULE:NAME of what builds it from the config; imported when one is built."""
    cost: Callable[[Any, int | None], Cost]
    """Its formulas: of the config and the tokenizer's vocabulary size, if known."""


MODELS = {
    "gpt": Family(GPTConfig, "models.gpt:GPT", gpt_cost),
    "lstm": Family(LSTMConfig, "models.recurrent.language:Recurrent", recurrent_cost),
    "rnn": Family(RNNConfig, "models.recurrent.language:Recurrent", recurrent_cost),
    "window": Family(WindowConfig, "models.window:Window", window_cost),
    "transformer": Family(TransformerConfig, "models.transformer:Transformer", transformer_cost),
    "bert": Family(BertConfig, "models.bert:build_bert", bert_cost),
    "cbow": Family(CBOWConfig, "models.word_vectors:WordVectors", word_vectors_cost),
    "skipgram": Family(SkipGramConfig, "models.word_vectors:WordVectors", word_vectors_cost),
    "mlp": Family(MLPConfig, "models.mlp:MLP", mlp_cost),
    "mlp_by_hand": Family(ByHandConfig, "models.by_hand:twin", mlp_cost),
    "hf": Family(HFConfig, "models.hf.encoder_decoder:wrapped", hf_cost),
}


def family(config: ModelConfig) -> Family:
    """The family of a config. Raises ValueError if it is of none."""
    found = MODELS.get(config.family)
    if found is None or not isinstance(config, found.config):
        raise ValueError(
            f"model.family={config.family!r} is no family for a {type(config).__name__}; "
            f"known families: {', '.join(MODELS)}"
        )
    return found


def build(config: ModelConfig) -> nn.Module:
    """Build the model with fresh random weights, on torch's current default device.

    Raises:
        ValueError: a language model's `vocab_size` is not set, or the family is not known.
    """
    if isinstance(config, TokenModelConfig) and config.vocab_size is None:
        raise ValueError(
            "model.vocab_size is not set; give it the tokenizer's, "
            "e.g. dataclasses.replace(config, vocab_size=4096)"
        )
    module, _, name = family(config).module.partition(":")
    built: nn.Module = getattr(importlib.import_module(module), name)(config)
    if isinstance(config, GPTConfig) and config.sparse:
        from models.pruning import keep_zeros

        keep_zeros(built)
    if isinstance(config, GPTConfig) and config.adapter is not None:
        from models.adapters import adapt

        adapt(built, config)
    return built


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return the architecture as plain JSON types, for a checkpoint; see `config_from_dict`."""
    return {key: value for key, value in asdict(config).items() if key not in NOT_ARCHITECTURE}


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Rebuild a config from `config_to_dict`; fields that are missing get their defaults.

    Raises:
        ValueError: the family is missing or unknown, a key is unknown, or a value is wrong.
    """
    if "family" not in values:
        raise ValueError(f"the model config names no family; known families: {', '.join(MODELS)}")
    name = str(values["family"])
    if name not in MODELS:
        raise ValueError(_unknown("model.family", name, list(MODELS)))
    config_class = MODELS[name].config
    known = [each.name for each in fields(config_class) if each.name not in NOT_ARCHITECTURE]
    for key in values:
        if key not in known:
            raise ValueError(_unknown(f"setting of model.family={name}", key, known))
    return config_class(**values)


def _unknown(what: str, name: str, known: list[str]) -> str:
    """Say that `name` is unknown, and which known name is near it."""
    hint = did_you_mean(name, known)
    return f"unknown {what}: {name!r} is not one of {', '.join(known)}{hint}"
