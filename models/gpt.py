"""A decoder-only Transformer; GPT-2 and Llama are two settings of its config.

B batch, T time (tokens), D model width, H heads, G key and value heads, K head width, V vocabulary,
P virtual tokens.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.adapters import Prefix, Prompt
from models.cache import KeysValues, KVCache
from models.configs import GPTConfig
from models.dropout import Dropout
from models.language import LanguageModel, check_sequence
from models.layers import (
    Attention,
    Block,
    Embedding,
    build_norm,
    document_mask,
    document_starts,
)
from models.masks import other_mask
from models.positions import rotary_table, sinusoidal_positions
from models.scores import ScoredAttention


class GPT(LanguageModel):
    """A LanguageModel of blocks of attention and feed-forward.

    Set `activation_checkpointing` to keep only the input of each block for the backward pass and
    compute the rest again: less memory, about a third more time.
    """

    config: GPTConfig

    def __init__(self, config: GPTConfig) -> None:
        """Draw the weights; `config.vocab_size` must be set (`models.build` checks)."""
        D, std = config.width, config.init_std
        super().__init__(config, D, std)
        self.activation_checkpointing = False
        if config.positions == "learned":
            self.position_embedding = Embedding(config.max_positions, D, std=std)
        self.dropout = Dropout(config.dropout)
        attention = Attention if config.score == "dot" else ScoredAttention
        self.blocks = nn.ModuleList(
            Block(config, layer, attention) for layer in range(config.layers)
        )
        self.norm = build_norm(config)
        self.prompt: Prompt | None = None
        self.prefix: Prefix | None = None
        self.finish()

    def hidden(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        documents: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """Return the final normed vector (B, T, D) of each of tokens (B, T); see `forward`.

        With columns (B, A), those (B, A, D) of the tokens there: of others the last layer has keys
        and values alone.
        """
        config = self.config
        check_sequence(config, tokens, cache, documents)
        start = 0 if cache is None else cache.length
        end = start + tokens.shape[1]
        positions = torch.arange(start, end, device=tokens.device)  # (T,)
        places, starts, mask = positions, None, None  # one mask for all layers
        if documents is not None:
            starts = document_starts(documents)  # (B, T)
            mask = document_mask(starts)  # (B, 1, T, T)
            positions = positions - starts  # (B, T)
        elif cache is not None and cache.starts is not None:
            positions, mask = cache.placed(positions)  # (B, T), (B, 1, T, S)
        if config.mask != "causal":
            mask = other_mask(config, places, cache, starts)
        before = self.before(len(tokens), cache)
        if before is not None and mask is not None:
            mask = functional.pad(mask, (before[0][0].shape[2], 0), value=True)
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
        for layer, block in enumerate(self.blocks):
            own = None if before is None else before[layer]
            at = columns if layer + 1 == config.layers else None
            if self.activation_checkpointing and self.training and cache is None:
                x = checkpoint(block, x, rotary, None, mask, own, at, use_reentrant=False)
            else:
                x = block(x, rotary, cache, mask, own, at)  # (B, T, D), or (B, A, D)
        if cache is not None:
            cache.length = end
        hidden: Tensor = self.norm(x)
        return hidden

    def hidden_at(self, columns: Tensor, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """As `hidden` with columns."""
        config = self.config
        if self.training and (config.dropout > 0 or config.adapter_dropout > 0):
            # Whose masks are drawn for places of a row.
            return super().hidden_at(columns, tokens, documents)
        return self.hidden(tokens, None, documents, columns)

    def before(self, rows: int, cache: KVCache | None) -> list[KeysValues] | None:
        """Keys and values of the virtual tokens in each layer. None: there are none.

        They are the same for all texts, (1, G, P, K), unless dropout makes them a sample's own,
        (B, G, P, K); a cache keeps them.
        """
        if self.prefix is not None:
            found: list[KeysValues] = self.prefix()
            return found
        if self.prompt is None:
            return None
        if cache is not None and cache.before is not None:
            return cache.before
        x = self.prompt()[None]  # (1, P, D)
        if self.training and self.config.dropout > 0:
            x = x.expand(rows, -1, -1)
        rotary = None
        if self.config.positions == "rotary":
            rotary = rotary_table(torch.arange(-x.shape[1], 0, device=x.device), self.config)
        before = []
        for block in cast(Iterable[Block], self.blocks):
            _, k, v = block.attention.project(block.attention_norm(x), rotary)
            before.append((k, v))
            x = block(x, rotary)
        if cache is not None:
            cache.before = before
        return before

    def new_cache(self, capacity: int, starts: Tensor | None = None) -> KVCache:
        """Return an empty cache of keys and values."""
        return KVCache(capacity, starts)
