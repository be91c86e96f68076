"""Recurrent layers as a language model.

B batch, T time (tokens), D units of a layer and numbers per token, V vocabulary.
"""

import torch
from torch import Tensor, nn

from models.cache import StateCache
from models.configs import RecurrentConfig
from models.dropout import Dropout
from models.language import LanguageModel, check_sequence, text_starts
from models.recurrent.lstm import LSTMLayer
from models.recurrent.rnn import RNNLayer

LAYERS: dict[str, type[RNNLayer] | type[LSTMLayer]] = {"rnn": RNNLayer, "lstm": LSTMLayer}


class Recurrent(LanguageModel):
    """A LanguageModel that reads its tokens one after another into a state."""

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        """Draw the weights; `config.vocab_size` must be set (`models.build` checks)."""
        D = config.width
        super().__init__(config, D, config.init_std)
        self.layers = nn.ModuleList(LAYERS[config.family](D, D) for _ in range(config.layers))
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in range(config.layers + 1))
        self.finish()

    def hidden(
        self, tokens: Tensor, cache: StateCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Return the final vector (B, T, D) of each of tokens (B, T); see `forward`."""
        check_sequence(self.config, tokens, cache, documents)
        T = tokens.shape[1]
        starts, keep = text_starts(tokens, cache, documents), None
        if starts is not None:
            columns = torch.arange(T, device=tokens.device)
            keep = (columns != starts).expand(tokens.shape).T  # (T, B)
        before = cache.states if cache is not None else []
        *inner, last = self.dropouts
        x, after = self.embedding(tokens), []  # (B, T, D)
        for number, (layer, dropout) in enumerate(zip(self.layers, inner, strict=True)):
            x, state = layer(dropout(x), before[number] if before else None, keep)
            after.append(state)
        if cache is not None:
            cache.states, cache.length = after, cache.length + T
        hidden: Tensor = last(x)
        return hidden

    def new_cache(self, capacity: int, starts: Tensor | None = None) -> StateCache:
        """Return an empty memory: the state of each layer, however long the text."""
        return StateCache(starts)
