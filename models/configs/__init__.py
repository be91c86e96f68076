"""The sizes and choices that define a model, checked once, at construction.

base.py        what every family has, and what families of one kind share
gpt.py         a decoder-only Transformer
blocks.py      what models of whole-sequence blocks share: transformer.py, an encoder-decoder;
               bert.py, an encoder for masked tokens
recurrent.py   recurrent networks: rnn, lstm
window.py      a fully connected network over a window of tokens
word_vectors.py   two vectors for each word: cbow, skipgram
mlp.py         layers of fully connected units; those whose gradients are written out by hand
hf.py          a module of the package transformers

No torch here: the command line composes and checks a config before it imports anything heavy.
"""

from models.configs.base import (
    CausalConfig,
    FeatureModelConfig,
    LanguageModelConfig,
    ModelConfig,
    TokenModelConfig,
    language,
    of_features,
    reads_tokens,
)
from models.configs.bert import BertConfig
from models.configs.blocks import BlocksConfig
from models.configs.gpt import GPTConfig
from models.configs.hf import HFConfig
from models.configs.mlp import ByHandConfig, MLPConfig, PerceptronConfig
from models.configs.recurrent import LSTMConfig, RecurrentConfig, RNNConfig
from models.configs.transformer import TransformerConfig
from models.configs.window import WindowConfig
from models.configs.word_vectors import CBOWConfig, SkipGramConfig, WordVectorsConfig

__all__ = [
    "BertConfig",
    "BlocksConfig",
    "ByHandConfig",
    "CBOWConfig",
    "CausalConfig",
    "FeatureModelConfig",
    "GPTConfig",
    "HFConfig",
    "LSTMConfig",
    "LanguageModelConfig",
    "MLPConfig",
    "ModelConfig",
    "PerceptronConfig",
    "RNNConfig",
    "RecurrentConfig",
    "SkipGramConfig",
    "TokenModelConfig",
    "TransformerConfig",
    "WindowConfig",
    "WordVectorsConfig",
    "language",
    "of_features",
    "reads_tokens",
]
