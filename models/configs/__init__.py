"""The sizes and choices that define a model, checked once, at construction.

base.py   what every family has, and what families of one kind share
gpt.py    a decoder-only Transformer
blocks.py what models of whole-sequence blocks share: transformer.py, an encoder-decoder; bert.py,
          an encoder for masked tokens
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
from models.configs.bert import BertConfig
from models.configs.blocks import BlocksConfig
from models.configs.gpt import GPTConfig
from models.configs.hf import HFConfig
from models.configs.mlp import MLPConfig
from models.configs.transformer import TransformerConfig

__all__ = [
    "BertConfig",
    "BlocksConfig",
    "ClassifierConfig",
    "GPTConfig",
    "HFConfig",
    "LanguageModelConfig",
    "MLPConfig",
    "ModelConfig",
    "TransformerConfig",
    "classifier",
    "language",
]
