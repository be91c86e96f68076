"""The parts of a Transformer block, from the smallest up.

B batch, T time (new tokens), S time with the cached tokens before them, D model width, H query
heads, G key and value heads, K head width, F feed-forward width.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.cache import KeysValues, KVCache
from models.configs import GPTConfig
from models.counted import take
from models.dropout import Dropout, is_keyed
from models.norms import RMSNorm
from models.positions import Rotary, rotate
from models.projection import on_bf16_cpu, project

WRITTEN_OUT_TOKENS = 256
"""Longest sequence whose bf16 attention is written out on a CPU.

The backward pass of torch's kernel is slow there. With it, both passes took so many times as long
as written out, with the bf16 instructions of AVX-512 and of AMX: 4.4 to 6.3 at 16 tokens, 2.9 to
5.1 at 64, 1.1 to 1.6 at 256, 1.0 at 384, 0.9 at 512; without such instructions 0.5, and in fp32
0.4 to 1.0 at any length. A rule that is measured on each machine would choose the same. The forward
pass alone took 1.9 to 2.9 times as long up to 128 tokens and 0.9 to 2.0 at 256 (AVX-512); where it
is the same, what a model says of a text does not depend on whether it is about to learn it.
"""


class Linear(nn.Linear):
    """A projection whose weights start as normal(0, std) and whose bias starts at zero.

    Each layer draws its own weights, in its own constructor: a module that drew them for its
    children later would find them already partitioned under ZeRO 3, and leave them unset.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool, std: float) -> None:
        """Draw the weights."""
        self.std = std
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weights anew, e.g. after `to_empty` has brought them from the meta device."""
        _draw_normal(self.weight, self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight^T + bias: (..., outputs)."""
        return project(x, self.weight, self.bias)

    @property
    def whole_weight(self) -> Tensor:
        """The weights (outputs, inputs), with all that is added to them."""
        return self.weight


class Embedding(nn.Embedding):
    """A table of vectors that start as normal(0, std)."""

    def __init__(self, rows: int, width: int, *, std: float) -> None:
        """Draw the vectors."""
        self.std = std
        super().__init__(rows, width)

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        _draw_normal(self.weight, self.std)


def _draw_normal(weight: Tensor, std: float) -> None:
    """Fill with normal(0, std); on the meta device, where there is nothing to fill, do nothing.

    torch draws there through its Python decompositions, which import the whole of its compiler:
    1 to 3 seconds of the start of every rank.
    """
    if not weight.is_meta:
        nn.init.normal_(weight, std=std)


def build_norm(config: GPTConfig) -> nn.Module:
    """Return a norm over D; both kinds take their statistics in fp32, also of a bf16 input."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.width, eps=config.norm_eps)
    return nn.LayerNorm(config.width, eps=config.norm_eps, bias=config.bias)


def residual_std(config: GPTConfig) -> float:
    """Return the initial std of the projections that add to the residual stream.

    There are 2 of them per layer; their sum keeps its variance as layers are added
    (Radford et al. 2019, section 2.3).
    """
    return config.init_std / float((2 * config.layers) ** 0.5)


def document_starts(documents: Tensor) -> Tensor:
    """Return where the document of each token starts in its row, int64 (B, T).

    A document is a run of equal ids in documents (B, T).
    """
    B, T = documents.shape
    opens = documents.new_zeros((B, T), dtype=torch.int64)
    place = torch.arange(1, T, device=documents.device)
    opens[:, 1:] = place * (documents[:, 1:] != documents[:, :-1])
    return opens.cummax(1).values


def document_mask(starts: Tensor) -> Tensor:
    """Return which tokens s a token t attends to, bool (B, 1, T, T): starts[t] <= s <= t."""
    place = torch.arange(starts.shape[1], device=starts.device)
    return (starts[:, None, :, None] <= place) & (place <= place[:, None])


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """Softmax over S of q k^T / sqrt(K), in fp32: (B, H, T, S).

    Args:
        q: (B, H, T, K).
        k: (B, H, S, K).
        mask: bool, broadcast to (B, H, T, S): true where t sees s. None: everywhere.
        causal: whether t sees no s after S - T + t.
    """
    T, S = q.shape[2], k.shape[2]
    if causal:
        seen = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
        mask = seen if mask is None else mask & seen
    scores = (q @ k.transpose(2, 3)).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    weights: Tensor = scores.softmax(-1)
    return weights


def behind(before: KeysValues, k: Tensor, v: Tensor) -> KeysValues:
    """Keys and values (B, G, S, K) behind others (1 or B, G, P, K): each (B, G, P + S, K)."""
    B = len(k)
    old_k, old_v = (own.type_as(k).expand(B, -1, -1, -1) for own in before)
    return torch.cat((old_k, k), 2), torch.cat((old_v, v), 2)


class Attention(nn.Module):
    """Causal self-attention; H query heads share G key and value heads (Ainslie et al. 2023)."""

    traced: ClassVar[dict[str, tuple[str, ...]]] = {"mix": ()}
    """Methods whose tensors a description of the model tells, too (models/describing.py)."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        """Make the projections of one layer; `layer` is its place in the cache."""
        super().__init__()
        self.layer = layer
        self.heads = config.heads
        self.kv_heads = config.key_value_heads
        self.head_width = config.head_width
        self.weights_dropout = Dropout(config.dropout)
        self.output_dropout = Dropout(config.dropout)
        D, K, std = config.width, config.head_width, config.init_std
        qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
        self.qkv = Linear(D, (self.heads + 2 * self.kv_heads) * K, bias=qkv_bias, std=std)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(K, eps=config.norm_eps)
            self.k_norm = RMSNorm(K, eps=config.norm_eps)
        self.output = Linear(self.heads * K, D, bias=config.bias, std=residual_std(config))

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None,
        cache: KVCache | None,
        mask: Tensor | None = None,
        before: KeysValues | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """Mix each token of x (B, T, D) with those before it, or those of a mask: (B, T, D).

        `before` are keys and values, each (1 or B, G, P, K), of tokens before all others; a mask
        has columns for them, too. With columns (B, A), only the tokens there are mixed: (B, A, D).
        """
        q, k, v = self.project(x, rotary)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)  # (B, G, S, K)
        if before is not None:
            k, v = behind(before, k, v)  # (B, G, P + S, K)
        T, S = q.shape[2], k.shape[2]
        if mask is None and (columns is not None or 1 < T < S):  # token t sees S - T + t + 1
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
        if columns is not None and mask is not None:
            q = take(q.transpose(1, 2), columns).transpose(1, 2)  # (B, H, A, K)
            seen = mask if mask.ndim == 2 else mask[:, 0]
            mask = take(seen.expand(len(x), T, S), columns)[:, None]  # (B, 1, A, S)
        y = self.output(self.mix(q, k, v, mask).transpose(1, 2).flatten(2))  # (B, T, D)
        dropped: Tensor = self.output_dropout(y)
        return dropped

    def placed(self, qkv: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H, K), keys and values (B, T, G, K) with norms and turns of positions."""
        H, G = self.heads, self.kv_heads
        if rotary is None and not self.qk_norm:
            q, k, v = qkv.split_with_sizes((H, G, G), 2)
            return q, k, v
        qk, v = qkv.split_with_sizes((H + G, G), 2)
        if self.qk_norm:
            qk = self.normed(qk)
        if rotary is not None:
            qk = rotate(qk, rotary)
        q, k = qk.split_with_sizes((H, G), 2)
        return q, k, v

    def normed(self, qk: Tensor) -> Tensor:
        """Queries and keys (B, T, H + G, K) as the norms of each make them."""
        q, k = qk.split_with_sizes((self.heads, self.kv_heads), 2)
        return torch.cat((self.q_norm(q), self.k_norm(k)), 2)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Weighted sums of v (B, G, S, K) by what q (B, H, T, K) finds in k: (B, H, T, K).

        Without a mask, (T, S) or (B, 1, T, S), a token sees those up to it.
        """
        drops = self.training and self.weights_dropout.p > 0
        if drops and is_keyed():
            # Written out, as no kernel takes a mask for dropout; (B, H, T, S) lives within each
            # pass alone, so that what is kept between them stays linear in T.
            mixed: Tensor = checkpoint(
                self._mix_written_out, q, k, v, mask, use_reentrant=False, preserve_rng_state=False
            )
            return mixed
        if not drops and is_faster_written_out(q, k):
            return self._mix_written_out(q, k, v, mask)
        return self._mix(q, k, v, mask)

    def weights(
        self,
        x: Tensor,
        rotary: Rotary | None,
        cache: KVCache | None,
        mask: Tensor | None = None,
        before: KeysValues | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """How much each token takes of each, without a cache: (B, H, T, P + T); see `forward`."""
        assert cache is None
        assert columns is None
        q, k, v = self.project(x, rotary)
        if before is not None:
            k, _ = behind(before, k, v)
        return self.shares(q, k, mask)

    def shares(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """What q (B, H, T, K) takes of each value by k (B, G, S, K), fp32: (B, H, T, S)."""
        return attention_weights(q, self.ungrouped(k), mask, causal=mask is None)

    def project(self, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, K), keys and values (B, G, T, K) of x (B, T, D), turned if asked."""
        whole = self.heads + 2 * self.kv_heads
        qkv = self.qkv(x).unflatten(-1, (whole, self.head_width))  # (B, T, H + 2G, K)
        q, k, v = self.placed(qkv, rotary)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The same by a kernel of torch."""
        if mask is not None and self.heads != self.kv_heads:
            # Of the CUDA kernels with linear memory only the memory-efficient one takes a mask,
            # and it takes no grouped heads; the fallback would keep (B, H, T, S) for backward.
            k, v = self.ungrouped(k), self.ungrouped(v)
        return functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.weights_dropout.p if self.training else 0.0,
            is_causal=mask is None and q.shape[2] == k.shape[2],
            enable_gqa=k.shape[1] != self.heads,
        )

    def _mix_written_out(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """The same, with keyed dropout of the weights, whose softmax is taken in fp32."""
        B, H, T, S = *q.shape[:3], k.shape[2]
        if mask is None:
            bias = q.new_full((T, S), -torch.inf).triu(S - T + 1)
        else:
            bias = q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf)
        if bias.ndim > 2:
            bias = bias.expand(B, H, T, S).flatten(0, 1)
        k, v = self.ungrouped(k), self.ungrouped(v)  # (B, H, S, K)
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=self.head_width**-0.5)
        weights = scores.softmax(-1, dtype=torch.float32).view(B, H, T, S)
        weights = self.weights_dropout(weights).type_as(v)
        return torch.bmm(weights.flatten(0, 1), v).view(B, H, T, -1)

    def ungrouped(self, x: Tensor) -> Tensor:
        """Keys or values (B, G, S, K), each repeated for the heads that share it: (B, H, S, K)."""
        shared = self.heads // self.kv_heads
        return x if shared == 1 else x.repeat_interleave(shared, 1)


def is_faster_written_out(q: Tensor, k: Tensor) -> bool:
    """Whether plain matrix products beat torch's kernel for q (B, H, T, K) and k (B, G, S, K)."""
    return on_bf16_cpu(q, q.dtype) and k.shape[2] <= WRITTEN_OUT_TOKENS


class FeedForward(nn.Module):
    """Two layers applied to each token alone: GELU as in GPT-2, or SwiGLU (Shazeer 2020)."""

    def __init__(self, config: GPTConfig) -> None:
        """Make the projections; with SwiGLU, `up` holds the gate and the value in one matrix."""
        super().__init__()
        self.gated = config.activation == "swiglu"
        self.gelu = "none" if config.activation == "gelu_erf" else "tanh"  # torch's names
        self.dropout = Dropout(config.dropout)
        D, F = config.width, config.feed_forward_width
        self.up = Linear(D, 2 * F if self.gated else F, bias=config.bias, std=config.init_std)
        self.down = Linear(F, D, bias=config.bias, std=residual_std(config))

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of x (B, T, D): (B, T, D)."""
        hidden = self.up(x)  # (B, T, F), or (B, T, 2F) when gated
        if self.gated:
            gate, value = hidden.chunk(2, -1)  # each (B, T, F)
            hidden = functional.silu(gate) * value
        else:
            hidden = functional.gelu(hidden, approximate=self.gelu)
        dropped: Tensor = self.dropout(self.down(hidden))  # (B, T, D)
        return dropped


class Block(nn.Module):
    """One layer: attention, then feed-forward, each normed before and added to its input."""

    residual = ("attention_norm", "ffn_norm")
    """Before them the input is kept, and added behind what follows; for drawings."""

    def __init__(
        self, config: GPTConfig, layer: int, attention: type[Attention] = Attention
    ) -> None:
        """Make the parts of layer number `layer`, counted from 0."""
        super().__init__()
        self.attention_norm = build_norm(config)
        self.attention = attention(config, layer)
        self.ffn_norm = build_norm(config)
        self.ffn = FeedForward(config)

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None,
        cache: KVCache | None = None,
        mask: Tensor | None = None,
        before: KeysValues | None = None,
        columns: Tensor | None = None,
    ) -> Tensor:
        """Add what attention and feed-forward find to x (B, T, D): (B, T, D).

        With columns (B, A), to the tokens that stand there, and return no others: (B, A, D).
        """
        mixed = self.attention(self.attention_norm(x), rotary, cache, mask, before, columns)
        x = (x if columns is None else take(x, columns)) + mixed
        x = x + self.ffn(self.ffn_norm(x))
        return x  # noqa: RET504
