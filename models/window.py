"""A fully connected network over a window of tokens: the neural language model of Bengio et al.

B batch, T time (tokens), D numbers per token, N tokens of a window, H hidden units, V vocabulary.
"""

import torch
from torch import Tensor

from models.cache import StateCache
from models.configs import WindowConfig
from models.dropout import Dropout
from models.language import LanguageModel, check_sequence, text_starts
from models.layers import Linear


class Window(LanguageModel):
    """A LanguageModel that sees the last N tokens (Bengio et al. 2003, equation 1).

    y = U' tanh(d + H x), where x are the vectors of the tokens side by side. The published network
    has no further layer; here H units come down to D numbers, so that the output layer can be the
    token table itself, as in the Transformer (Press and Wolf 2017).
    """

    config: WindowConfig

    def __init__(self, config: WindowConfig) -> None:
        """Draw the weights; `config.vocab_size` must be set (`models.build` checks)."""
        D, H, inputs = config.width, config.hidden, config.window_inputs
        super().__init__(config, D, config.init_std)
        self.hidden_layer = Linear(inputs, H, bias=True, std=inputs**-0.5)
        self.projection = Linear(H, D, bias=True, std=H**-0.5)
        self.dropout, self.hidden_dropout = Dropout(config.dropout), Dropout(config.dropout)
        self.finish()

    def hidden(
        self, tokens: Tensor, cache: StateCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Return the final vector (B, T, D) of each of tokens (B, T); see `forward`."""
        check_sequence(self.config, tokens, cache, documents)
        (B, T), N = tokens.shape, self.config.window
        x = self.dropout(self.embedding(tokens))  # (B, T, D)
        if cache is not None and cache.states:
            ((before,),) = cache.states
        else:
            before = x.new_zeros(B, N - 1, x.shape[2])  # nothing stands before a text
        x = torch.cat((before, x), 1)  # (B, N - 1 + T, D)
        windows = x.unfold(1, N, 1).transpose(2, 3)  # (B, T, N, D), the token itself last
        starts = text_starts(tokens, cache, documents)
        if starts is not None:
            columns = torch.arange(T, device=tokens.device)[:, None] + torch.arange(
                1 - N, 1, device=tokens.device
            )  # (T, N)
            windows = torch.where((columns >= starts[..., None])[..., None], windows, 0.0)
        if cache is not None:
            cache.states = [(x[:, T:],)]
            cache.length += T
        hidden = torch.tanh(self.hidden_layer(windows.flatten(2)))  # (B, T, H)
        projected: Tensor = self.projection(self.hidden_dropout(hidden))
        return projected

    def new_cache(self, capacity: int, starts: Tensor | None = None) -> StateCache:
        """Return an empty memory: the vectors of the last N - 1 tokens, however long the text."""
        return StateCache(starts)
