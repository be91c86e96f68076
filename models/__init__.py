"""Language models: a config per family, and the module that it builds.

Importing this package does not import torch; `build` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from models.configs import GPTConfig, ModelConfig

if TYPE_CHECKING:
    from torch import nn

MODELS: dict[str, type[ModelConfig]] = {"gpt": GPTConfig}


def build(config: ModelConfig) -> nn.Module:
    """Build the model with fresh random weights, on torch's current default device.

    Raises:
        ValueError: `vocab_size` is not set, or the config is of no known family.
    """
    if config.vocab_size is None:
        raise ValueError(
            "model.vocab_size is not set; give it the tokenizer's, "
            "e.g. dataclasses.replace(config, vocab_size=4096)"
        )
    if isinstance(config, GPTConfig):
        from models.gpt import GPT

        return GPT(config)
    raise ValueError(
        f"model.family={config.family!r} has no module for {type(config).__name__}; "
        f"known families: {', '.join(MODELS)}"
    )


def config_to_dict(config: ModelConfig) -> dict[str, Any]:
    """Return the config as plain JSON types, for a checkpoint; see `config_from_dict`."""
    return asdict(config)


def config_from_dict(values: Mapping[str, Any]) -> ModelConfig:
    """Rebuild a config from `config_to_dict`; fields that are missing get their defaults.

    Raises:
        ValueError: the family is missing or unknown, a key is unknown, or a value is wrong.
    """
    if "family" not in values:
        raise ValueError(f"the model config names no family; known families: {', '.join(MODELS)}")
    family = str(values["family"])
    if family not in MODELS:
        raise ValueError(_unknown("model.family", family, list(MODELS)))
    config_class = MODELS[family]
    known = [field.name for field in fields(config_class)]
    for key in values:
        if key not in known:
            raise ValueError(_unknown(f"setting of model.family={family}", key, known))
    return config_class(**values)


def _unknown(what: str, name: str, known: list[str]) -> str:
    """Say that `name` is unknown, and which known name is near it."""
    near = get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"unknown {what}: {name!r} is not one of {', '.join(known)}{hint}"
