"""What language models of every family share: from final vectors to logits or a loss.

B batch, T time (tokens), D model width, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cache import Cache
from models.configs import CausalConfig
from models.counted import columns_that_count, put, take
from models.dropout import number_dropouts
from models.layers import Embedding, Linear, document_starts
from models.loss import summed_loss, token_grades, token_losses, token_scores


class LanguageModel(nn.Module):
    """Predicts the next token at every position, each from the tokens up to it.

    A family has two methods of its own: `hidden` and `new_cache`.
    """

    config: CausalConfig
    head: nn.Linear
    value: nn.Linear

    def __init__(self, config: CausalConfig, width: int, std: float) -> None:
        """Draw the token table (V, D); a family makes its layers, then calls `finish`.

        `config.vocab_size` must be set (`models.build` checks).
        """
        super().__init__()
        assert config.vocab_size is not None
        self.config = config
        self.embedding = Embedding(config.vocab_size, width, std=std)

    def finish(self) -> None:
        """Draw the output layer, unless that is the token table, and number all dropouts."""
        V, D = self.embedding.weight.shape
        if self.config.value_head:
            # From zero, so that all texts are worth the same before training.
            self.value = Linear(D, 1, bias=True, std=0.0)
        elif not self.config.tied_embedding:
            self.head = Linear(D, V, bias=False, std=self.embedding.std)
        number_dropouts(self)

    def forward(
        self,
        tokens: Tensor,
        cache: Any = None,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        loss_mask: Tensor | None = None,
        grades: bool = False,
        temperature: float | None = None,
        summed: bool = True,
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each of tokens (B, T), int64.

        With a cache of `new_cache`, tokens continue those that it holds, and it holds them too
        afterwards.
        With documents (B, T), an id per token, a run of equal ids is a text of its own: its tokens
        see each other alone and count their positions from its start, so that they get the logits
        that they would get without the rest of the row.

        With targets (B, T), int64, return the loss of each instead, fp32 (B, T) in nats; with a
        loss mask too, bool (B, T), the sum where it is true, fp32 (), or if not `summed` the loss
        of each, 0 where it is false; with `grades` as well, loss of each and whether it is the
        likeliest token, see `token_grades`. With a temperature, which the logits are divided by,
        return the log-probability of each target and the entropy of what it is drawn from, fp32
        (B, T, 2) in nats, 0 where a loss mask is false. Logits are then never whole, and on a CPU
        only those are computed that count.

        With a value head, return the value of the text up to each of tokens, fp32 (B, T), with a
        loss mask 0 where it is false.

        Raises:
            ValueError: the sequence is longer than `max_positions`, documents come together with
                a cache, or they have another shape than tokens.
        """
        columns = None
        if loss_mask is not None and cache is None:
            columns = columns_that_count(loss_mask)
        if columns is None:
            hidden = self.hidden(tokens, cache, documents)
            return self.told(hidden, targets, loss_mask, grades, temperature, summed)
        hidden = self.hidden_at(columns, tokens, documents)
        own, mask = (None if x is None else take(x, columns) for x in (targets, loss_mask))
        found = self.told(hidden, own, mask, grades, temperature, summed)
        if found.ndim == 0:
            return found
        parts = [put(x, columns, tokens.shape[1]) for x in (found if grades else [found])]
        return torch.stack(parts) if grades else parts[0]

    def told(
        self,
        hidden: Tensor,
        targets: Tensor | None,
        loss_mask: Tensor | None,
        grades: bool,
        temperature: float | None,
        summed: bool,
    ) -> Tensor:
        """What `forward` returns, of final vectors (B, T, D)."""
        if self.config.value_head:
            values: Tensor = self.value(hidden)[..., 0].float()
            return values if loss_mask is None else values.where(loss_mask, 0.0)
        if targets is None:
            return self.logits(hidden)
        if temperature is not None:
            return token_scores(hidden, self.head_weight, targets, temperature, loss_mask)
        if loss_mask is None or not (summed or grades):
            return token_losses(hidden, self.head_weight, targets, loss_mask)
        if grades:
            return token_grades(hidden, self.head_weight, targets, loss_mask)
        return summed_loss(hidden, self.head_weight, targets, loss_mask)

    def hidden(self, tokens: Tensor, cache: Any = None, documents: Tensor | None = None) -> Tensor:
        """Return the final vector (B, T, D) of each of tokens (B, T); see `forward`."""
        raise NotImplementedError

    def hidden_at(self, columns: Tensor, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Return the final vectors (B, A, D) of the tokens in these columns (B, A) of each row.

        A family may spare itself what nobody asks of the others.
        """
        return take(self.hidden(tokens, None, documents), columns)

    def new_cache(self, capacity: int, starts: Tensor | None = None) -> Cache:
        """Return an empty memory of up to `capacity` tokens; `starts` as in `Cache`."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, T, V) for final vectors (B, T, D)."""
        return functional.linear(hidden, self.head_weight)

    def next_logits(self, tokens: Tensor, cache: Any) -> Tensor:
        """Return the logits (B, V) behind the last of tokens (B, T), which continue the cache's."""
        return self.logits(self.hidden(tokens, cache)[:, -1])

    @property
    def head_weight(self) -> Tensor:
        """The weights (V, D) of the output layer."""
        layer = self.embedding if self.config.tied_embedding else self.head
        return layer.weight


def check_sequence(
    config: CausalConfig, tokens: Tensor, cache: Cache | None, documents: Tensor | None
) -> None:
    """Raise ValueError for what `LanguageModel.forward` refuses."""
    end = tokens.shape[1] + (0 if cache is None else cache.length)
    if end > config.max_positions:
        raise ValueError(
            f"a sequence of {end} tokens is longer than model.max_positions={config.max_positions}"
        )
    if documents is None:
        return
    if cache is not None:
        raise ValueError(
            "documents can't be kept apart over a cache, which holds one text per row; "
            "give the tokens without a cache, or one document per row without documents"
        )
    if documents.shape != tokens.shape:
        raise ValueError(
            f"documents has shape {tuple(documents.shape)}; it must be that of tokens, "
            f"{tuple(tokens.shape)}"
        )


def text_starts(tokens: Tensor, cache: Cache | None, documents: Tensor | None) -> Tensor | None:
    """Where the text of each token begins: columns of tokens (B, T), int64 (B, T) or (B, 1).

    Negative where that is among the tokens of the cache. None: no row holds more than one text.
    """
    if documents is not None:
        return document_starts(documents)
    if cache is None or cache.starts is None:
        return None
    return cache.starts[:, None].to(tokens.device) - cache.length
