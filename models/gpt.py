"""A decoder-only Transformer; GPT-2 and Llama are two settings of its config.

B batch, T time (tokens), D model width, H heads, K head width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.cache import KVCache
from models.configs import GPTConfig
from models.dropout import Dropout, number_dropouts
from models.layers import (
    Attention,
    Block,
    Embedding,
    Linear,
    build_norm,
    document_mask,
    document_starts,
    rotary_table,
    sinusoidal_positions,
)
from models.loss import summed_loss, token_losses
from models.masks import other_mask
from models.scores import ScoredAttention


class GPT(nn.Module):
    """Predicts the next token at every position, each from the tokens up to it.

    Set `activation_checkpointing` to keep only the input of each block for the backward pass and
    compute the rest again: less memory, about a third more time.
    """

    def __init__(self, config: GPTConfig) -> None:
        """Draw the weights; `config.vocab_size` must be set (`models.build` checks)."""
        super().__init__()
        assert config.vocab_size is not None
        self.config = config
        self.activation_checkpointing = False
        D, V, std = config.width, config.vocab_size, config.init_std
        self.embedding = Embedding(V, D, std=std)
        if config.positions == "learned":
            self.position_embedding = Embedding(config.max_positions, D, std=std)
        self.dropout = Dropout(config.dropout)
        attention = Attention if config.score == "dot" else ScoredAttention
        self.blocks = nn.ModuleList(
            Block(config, layer, attention) for layer in range(config.layers)
        )
        self.norm = build_norm(config)
        if not config.tied_embedding:
            self.head = Linear(D, V, bias=False, std=std)
        number_dropouts(self)

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
        targets: Tensor | None = None,
        loss_mask: Tensor | None = None,
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each of tokens (B, T), int64.

        With a cache, tokens continue those that it holds, and it holds them too afterwards.
        With documents (B, T), an id per token, a run of equal ids is a text of its own: its tokens
        attend to each other alone and count their positions from its start, so that they get the
        logits that they would get without the rest of the row.

        With targets (B, T), int64, return the loss of each instead, fp32 (B, T) in nats; with a
        loss mask too, bool (B, T), the sum where it is true, fp32 (). Logits are then never whole.

        Raises:
            ValueError: the sequence is longer than `max_positions`, documents come together with
                a cache, or they have another shape than tokens.
        """
        hidden = self.hidden(tokens, cache, documents)
        if targets is None:
            return self.logits(hidden)
        if loss_mask is None:
            return token_losses(hidden, self.head_weight, targets)
        return summed_loss(hidden, self.head_weight, targets, loss_mask)

    def hidden(
        self, tokens: Tensor, cache: KVCache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Return the final normed vector (B, T, D) of each of tokens (B, T); see `forward`."""
        config = self.config
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        if end > config.max_positions:
            raise ValueError(
                f"a sequence of {end} tokens is longer than "
                f"model.max_positions={config.max_positions}"
            )
        positions = torch.arange(start, end, device=tokens.device)  # (T,)
        columns, starts, mask = positions, None, None  # one mask for all layers
        if documents is not None:
            _check_documents(documents, tokens, cache)
            starts = document_starts(documents)  # (B, T)
            mask = document_mask(starts)  # (B, 1, T, T)
            positions = positions - starts  # (B, T)
        elif cache is not None and cache.starts is not None:
            positions, mask = cache.placed(positions)  # (B, T), (B, 1, T, S)
        if config.mask != "causal":
            mask = other_mask(config, columns, cache, starts)
        x = self.embedding(tokens)  # (B, T, D)
        rotary = None
        if config.positions == "rotary":
            rotary = rotary_table(positions, config)
        elif config.positions == "learned":
            x = x + self.position_embedding(positions)
        else:
            # Scaled as in Vaswani et al. 2017, section 3.4: the sinusoids, of size 1, would
            # drown embeddings of std 0.02.
            x = x * config.width**0.5 + sinusoidal_positions(positions, config.width).type_as(x)
        x = self.dropout(x)
        for block in self.blocks:
            if self.activation_checkpointing and self.training and cache is None:
                x = checkpoint(block, x, rotary, None, mask, use_reentrant=False)
            else:
                x = block(x, rotary, cache, mask)  # (B, T, D)
        if cache is not None:
            cache.length = end
        hidden: Tensor = self.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, T, V) for final vectors (B, T, D)."""
        return functional.linear(hidden, self.head_weight)

    def next_logits(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """Return the logits (B, V) behind the last of tokens (B, T), which continue the cache's."""
        return self.logits(self.hidden(tokens, cache)[:, -1])

    @property
    def head_weight(self) -> Tensor:
        """The weights (V, D) of the output layer."""
        layer = self.embedding if self.config.tied_embedding else self.head
        return layer.weight


def _check_documents(documents: Tensor, tokens: Tensor, cache: KVCache | None) -> None:
    """Raise ValueError for documents that `GPT.forward` cannot keep apart."""
    if cache is not None:
        raise ValueError(
            "documents can't be kept apart over a key-value cache, which holds one text per row; "
            "give the tokens without a cache, or one document per row without documents"
        )
    if documents.shape != tokens.shape:
        raise ValueError(
            f"documents has shape {tuple(documents.shape)}; it must be that of tokens, "
            f"{tuple(tokens.shape)}"
        )
