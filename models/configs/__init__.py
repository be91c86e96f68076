"""The sizes and choices that define a model, checked once, at construction.

base.py   what every family has, and what families of one kind share
gpt.py    a decoder-only Transformer
mlp.py    layers of fully connected units
hf.py     a module of the package transformers

No torch here: the command line composes and checks a config before it imports anything heavy.
"""

from models.configs.base import (
    ClassifierConfig,
    LanguageModelConfig,
    ModelConfig,
    classifier,
    language,
)
from models.configs.gpt import GPTConfig
from models.configs.hf import HFConfig
from models.configs.mlp import MLPConfig

__all__ = [
    "ClassifierConfig",
    "GPTConfig",
    "HFConfig",
    "LanguageModelConfig",
    "MLPConfig",
    "ModelConfig",
    "classifier",
    "language",
]
