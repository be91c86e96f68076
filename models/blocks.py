"""Blocks over whole sequences: self-attention, cross-attention and feed-forward, normed in either
order.

B batch, T time (tokens), S tokens that are attended to, D model width, H heads, K head width,
F feed-forward width.
"""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from models.cache import KeysValues, KVCache
from models.configs.blocks import BlocksConfig
from models.dropout import Dropout, is_keyed
from models.layers import Linear, attention_weights, is_faster_written_out

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
}


def linear(config: BlocksConfig, inputs: int, outputs: int, fused: int = 1) -> Linear:
    """A projection, or several of the same inputs in one matrix."""
    std = config.weight_std(inputs, outputs // fused)
    return Linear(inputs, outputs, bias=True, std=std)


def norm(config: BlocksConfig) -> nn.LayerNorm:
    """A layer norm over D."""
    return nn.LayerNorm(config.width, eps=config.norm_eps)


def attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: Dropout, *, causal: bool = False
) -> Tensor:
    """Weighted sums of v (B, H, S, K) by what q finds in k: (B, T, H x K)."""
    drops = dropout.training and dropout.p > 0
    causal = causal and q.shape[2] > 1  # one new token sees all before it
    if (drops and is_keyed()) or (not drops and is_faster_written_out(q, k)):
        weights: Tensor = dropout(attention_weights(q, k, mask, causal=causal))
        y = weights.type_as(v) @ v  # (B, H, T, K)
    else:
        y = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout.p if drops else 0.0, is_causal=causal
        )
    return y.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Each token mixed with those that it sees of its own sequence."""

    traced: ClassVar[dict[str, tuple[str, ...]]] = {"project": ("q", "k", "v")}
    """Methods whose tensors a description of the model tells, too (models/describing.py)."""

    def __init__(self, config: BlocksConfig, *, causal: bool = False) -> None:
        """Make the projections; `causal` if a token sees none after it."""
        super().__init__()
        D = config.width
        self.heads, self.causal = config.heads, causal
        self.weights_dropout = Dropout(config.dropout)
        self.qkv = linear(config, D, 3 * D, fused=3)
        self.output = linear(config, D, D)

    def forward(
        self, x: Tensor, mask: Tensor | None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """Mix x (B, T, D) by a mask as in `attention_weights`, behind cached tokens: (B, T, D)."""
        q, k, v = self.project(x)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        y: Tensor = self.output(attend(q, k, v, mask, self.weights_dropout, causal=self.causal))
        return y

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values of x (B, T, D), each (B, H, T, K)."""
        whole: Tensor = self.qkv(x).unflatten(-1, (3 * self.heads, -1))  # (B, T, 3H, K)
        return whole.transpose(1, 2).chunk(3, 1)

    def weights(
        self, x: Tensor, mask: Tensor | None, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        """How much each token takes of each, without a cache: (B, H, T, S)."""
        assert cache is None
        q, k, _ = self.project(x)
        return attention_weights(q, k, mask, causal=self.causal)


class CrossAttention(nn.Module):
    """Each token of a target mixed with all of a source."""

    traced: ClassVar[dict[str, tuple[str, ...]]] = {"keys_values": ("k", "v")}

    def __init__(self, config: BlocksConfig) -> None:
        """Make the projections."""
        super().__init__()
        D = config.width
        self.heads = config.heads
        self.weights_dropout = Dropout(config.dropout)
        self.query = linear(config, D, D)
        self.key_value = linear(config, D, 2 * D, fused=2)
        self.output = linear(config, D, D)

    def keys_values(self, memory: Tensor) -> KeysValues:
        """What the source (B, S, D) is asked by and gives, each (B, H, S, K)."""
        both = self.key_value(memory).unflatten(-1, (2 * self.heads, -1)).transpose(1, 2)
        keys, values = both.chunk(2, 1)
        return keys, values

    def forward(self, x: Tensor, memory: KeysValues, mask: Tensor | None) -> Tensor:
        """What x (B, T, D) finds in a source, where mask (B, 1, 1, S) is true: (B, T, D)."""
        y: Tensor = self.output(attend(self.queries(x), *memory, mask, self.weights_dropout))
        return y

    def queries(self, x: Tensor) -> Tensor:
        """Queries (B, H, T, K) of x (B, T, D)."""
        whole: Tensor = self.query(x).unflatten(-1, (self.heads, -1))  # (B, T, H, K)
        return whole.transpose(1, 2)

    def weights(self, x: Tensor, memory: KeysValues, mask: Tensor | None) -> Tensor:
        """How much each target token takes of each source token: (B, H, T, S)."""
        return attention_weights(self.queries(x), memory[0], mask, causal=False)


class WholeFeedForward(nn.Module):
    """Two layers applied to each token alone."""

    def __init__(self, config: BlocksConfig) -> None:
        """Make the projections."""
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = linear(config, config.width, config.feed_forward_width)
        self.down = linear(config, config.feed_forward_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of x (B, T, D): (B, T, D)."""
        y: Tensor = self.down(self.activation(self.up(x)))
        return y


class Residual(nn.Module):
    """x + f(x), normed before or after, with dropout on what is added."""

    def __init__(self, config: BlocksConfig, layer: nn.Module) -> None:
        """Wrap a layer, f."""
        super().__init__()
        self.pre = config.norm_order == "pre"
        self.layer = layer
        self.norm = norm(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, *others: object) -> Tensor:
        """x (B, T, D), with what else the layer takes: (B, T, D)."""
        if self.pre:
            y: Tensor = x + self.dropout(self.layer(self.norm(x), *others))
        else:
            y = self.norm(x + self.dropout(self.layer(x, *others)))
        return y


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: BlocksConfig) -> None:
        """Make the parts."""
        super().__init__()
        self.attention = Residual(config, SelfAttention(config))
        self.ffn = Residual(config, WholeFeedForward(config))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, D); mask as in `attention_weights`: (B, T, D)."""
        y: Tensor = self.ffn(self.attention(x, mask))
        return y


class DecoderBlock(nn.Module):
    """Causal self-attention, then what the source says, then feed-forward."""

    def __init__(self, config: BlocksConfig, layer: int) -> None:
        """Make the parts; `layer` is its place in the cache."""
        super().__init__()
        self.place = layer
        self.attention = Residual(config, SelfAttention(config, causal=True))
        self.cross = Residual(config, CrossAttention(config))
        self.ffn = Residual(config, WholeFeedForward(config))

    def forward(
        self, x: Tensor, memory: KeysValues, mask: Tensor | None, cache: KVCache | None
    ) -> Tensor:
        """x (B, T, D) of the target; `memory` and mask (B, 1, 1, S) of the source: (B, T, D)."""
        x = self.attention(x, None, cache, self.place)
        x = self.cross(x, memory, mask)
        y: Tensor = self.ffn(x)
        return y

    def keys_values(self, memory: Tensor) -> KeysValues:
        """Those of the source (B, S, D) for this block."""
        layer = self.cross.layer
        assert isinstance(layer, CrossAttention)
        return layer.keys_values(memory)
