"""The encoder-decoder Transformer of Vaswani et al. 2017.

B batch, S source tokens, T target tokens, D model width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.blocks import DecoderBlock, EncoderBlock, norm
from models.cache import KeysValues, KVCache
from models.configs import TransformerConfig
from models.dropout import Dropout, number_dropouts
from models.layers import Embedding, Linear
from models.loss import summed_loss
from models.positions import sinusoidal_positions


class Transformer(nn.Module):
    """Predicts each target token from those before it and from the whole source."""

    def __init__(self, config: TransformerConfig) -> None:
        """Draw the weights; `config.vocab_size` must be set (`models.build` checks)."""
        super().__init__()
        assert config.vocab_size is not None
        self.config = config
        D, V = config.width, config.vocab_size
        # Scaled by sqrt(D) before positions are added: then of size 1, as these are.
        self.embedding = Embedding(V, D, std=D**-0.5)
        if not config.shared_embedding:
            self.target_embedding = Embedding(V, D, std=D**-0.5)
            self.head = Linear(D, V, bias=False, std=D**-0.5)
        self.dropout = Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.layers))
        self.decoder = nn.ModuleList(DecoderBlock(config, n) for n in range(config.layers))
        pre = config.norm_order == "pre"  # after the last block nothing else norms then
        self.encoder_norm = norm(config) if pre else nn.Identity()
        self.decoder_norm = norm(config) if pre else nn.Identity()
        number_dropouts(self)

    def forward(
        self,
        source: Tensor,
        target: Tensor,
        source_mask: Tensor | None = None,
        targets: Tensor | None = None,
        loss_mask: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each of target (B, T), int64.

        source is int64 (B, S), and source_mask, bool (B, S), is true where it is no padding. A
        target needs no mask: padding behind it is seen by no token of it.

        With targets (B, T) and loss_mask, bool (B, T), return the losses where the mask is true,
        summed, fp32 (), in nats, with labels smoothed as in `summed_loss`.

        Raises:
            ValueError: a text is longer than `max_positions`.
        """
        memory = self.memory(self.encode(source, source_mask))
        hidden = self.decode(target, memory, source_mask)
        if targets is None:
            return self.logits(hidden)
        assert loss_mask is not None
        # Only what counts goes through the output layer, the widest of all.
        return summed_loss(
            hidden[loss_mask][None],
            self.head_weight,
            targets[loss_mask][None],
            label_smoothing=label_smoothing,
        )

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """Return a vector for each token of source (B, S): (B, S, D); see `forward`."""
        x = self._embed(self.embedding, source, 0)
        mask = _as_keys(source_mask)
        for block in self.encoder:
            x = block(x, mask)
        encoded: Tensor = self.encoder_norm(x)
        return encoded

    def memory(self, encoded: Tensor) -> list[KeysValues]:
        """Keys and values of an encoded source (B, S, D) for each block of the decoder."""
        blocks = (block for block in self.decoder if isinstance(block, DecoderBlock))
        return [block.keys_values(encoded) for block in blocks]

    def decode(
        self,
        target: Tensor,
        memory: list[KeysValues],
        source_mask: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return the final vectors (B, T, D) of target (B, T), behind the tokens of a cache."""
        start = 0 if cache is None else cache.length
        table = self.embedding if self.config.shared_embedding else self.target_embedding
        x = self._embed(table, target, start)
        mask = _as_keys(source_mask)
        for block, own in zip(self.decoder, memory, strict=True):
            x = block(x, own, mask, cache)
        if cache is not None:
            cache.length = start + target.shape[1]
        hidden: Tensor = self.decoder_norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, T, V) for final vectors (B, T, D)."""
        return functional.linear(hidden, self.head_weight)

    @property
    def head_weight(self) -> Tensor:
        """The weights (V, D) of the output layer."""
        return self.embedding.weight if self.config.shared_embedding else self.head.weight

    def _embed(self, table: nn.Module, tokens: Tensor, start: int) -> Tensor:
        """Vectors (B, T, D) of tokens (B, T) that stand at `start` and behind."""
        end, D = start + tokens.shape[1], self.config.width
        if end > self.config.max_positions:
            raise ValueError(
                f"a text of {end} tokens is longer than "
                f"model.max_positions={self.config.max_positions}"
            )
        x = table(tokens) * D**0.5
        positions = torch.arange(start, end, device=tokens.device)
        placed: Tensor = self.dropout(x + sinusoidal_positions(positions, D).type_as(x))
        return placed


def _as_keys(mask: Tensor | None) -> Tensor | None:
    """Which of S every query sees: (B, S) as (B, 1, 1, S)."""
    return None if mask is None else mask[:, None, None]
