"""The sizes and choices that define a model, checked once, at construction.

base.py        what every family has, and what families of one kind share
gpt.py         a decoder-only Transformer
recurrent.py   recurrent networks: rnn, lstm
window.py      a fully connected network over a window of tokens
mlp.py         layers of fully connected units

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
from models.configs.mlp import MLPConfig
from models.configs.recurrent import LSTMConfig, RecurrentConfig, RNNConfig
from models.configs.window import WindowConfig

__all__ = [
    "ClassifierConfig",
    "GPTConfig",
    "LSTMConfig",
    "LanguageModelConfig",
    "MLPConfig",
    "ModelConfig",
    "RNNConfig",
    "RecurrentConfig",
    "WindowConfig",
    "classifier",
    "language",
]
