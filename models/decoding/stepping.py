"""One new token per row, over cached keys and values: the pass that writing a text consists of.

It computes what `GPT.hidden` computes for T = 1, straight from the weights. With so little to do
per weight, time goes into reading the weights, and into everything around it: a module call costs
as much as a small operation, and oneDNN sorts bf16 weights anew at every call unless they are kept
sorted.

B rows, D model width, H query heads, G key and value heads, K head width, S tokens so far with the
new one, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cache import Cache, FixedKVCache, KVCache
from models.configs import LanguageModelConfig
from models.gpt import GPT
from models.layers import Block
from models.masks import other_mask
from models.positions import Rotary, rotary_table, rotate, sinusoidal_positions
from models.products import Projection, sorted_projection, sorts

FEW_ROWS = 4
"""From so many rows on sorted fp32 weights are faster, by 1.1 to 1.6; bf16 ones always are, by 1.3
to 1.8 (measured with AVX-512 and AMX)."""
FEW_STEPS = 16  # sorting takes as long as it saves in about 10
MOST_SORTED_BYTES = 2**31  # of the second copy of the weights that sorting them takes


class TextModel(Protocol):
    """A model that writes text."""

    @property
    def config(self) -> LanguageModelConfig:
        """Its sizes."""

    @property
    def head_weight(self) -> Tensor:
        """The weights (V, D) of the output layer."""

    def new_cache(self, capacity: int, starts: Tensor | None = None) -> Cache:
        """Return an empty memory of up to `capacity` tokens; `starts` as in `Cache`."""

    def next_logits(self, tokens: Tensor, cache: Any) -> Tensor:
        """Return the logits (B, V) behind the last of tokens (B, T), which continue the cache's."""


def stepping(
    model: TextModel, cache: Any, rows: int, steps: int, *, selects: bool = False
) -> Callable[[Tensor], Tensor]:
    """Return the fastest way from tokens (B,), int64, to the logits (B, V) behind them.

    The arguments are those of `Stepper`, which is for attention by dot products alone; `selects`
    is whether rows of the cache are selected between steps. On a GPU the logits are good until the
    next step.
    """
    if isinstance(model, GPT) and model.config.steps:
        long = steps >= FEW_STEPS and not selects and not torch.is_autocast_enabled("cuda")
        if long and model.head_weight.is_cuda and model.config.mask == "causal":
            return Recorded(model, cache, rows, steps).step
        return Stepper(model, cache, rows, steps).step

    def step(tokens: Tensor) -> Tensor:
        with evaluating(model):
            return model.next_logits(tokens[:, None], cache)

    return step


@contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Turn dropout off, and give each module its mode back."""
    trained = [module for module in cast(nn.Module, model).modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True


class Stepper:
    """Feeds a model one token per row, again and again."""

    def __init__(self, model: GPT, cache: KVCache, rows: int, steps: int) -> None:
        """Continue the tokens that `cache` holds, in `rows` rows, for at most `steps` steps.

        The weights must stay as they are meanwhile.
        """
        self.model, self.cache = model, cache
        weight = model.head_weight
        sort = steps >= FEW_STEPS and _sorting_pays(model, weight, rows)
        self.layers = [_Layer(cast(Block, block), sort, rows) for block in model.blocks]
        self.head = _projection(weight, None, sort, rows)

    def step(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, V) of the token after each of tokens (B,), int64."""
        model, cache = self.model, self.cache
        config = model.config
        columns = positions = cache.column(tokens.device)  # (1,)
        mask = None
        if cache.starts is not None:
            positions, mask = cache.placed(positions)  # (B, 1), (B, 1, 1, S)
        if config.mask != "causal":
            mask = other_mask(config, columns, cache)
        x = functional.embedding(tokens, model.embedding.weight)  # (B, D)
        rotary = None
        if config.positions == "rotary":
            rotary = rotary_table(positions, config)
        elif config.positions == "learned":
            x = x + functional.embedding(positions, model.position_embedding.weight)[..., 0, :]
        else:
            sines = sinusoidal_positions(positions, config.width)[..., 0, :]
            x = x * config.width**0.5 + sines.type_as(x)
        for layer in self.layers:
            x = layer(x, rotary, cache, mask)
        cache.grow()
        return self.head(model.norm(x))


class Recorded:
    """A `Stepper` whose step is recorded as a CUDA graph, and replayed.

    A GPU has written a token before Python has asked for the next operation: 12 layers at batch 1
    took an H200 0.5 ms of work and 4.3 ms of time.
    """

    def __init__(self, model: GPT, cache: KVCache, rows: int, steps: int) -> None:
        """The arguments are those of `Stepper`; each layer of the cache has seen some tokens."""
        self.cache = cache
        device = model.head_weight.device
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self.fixed = FixedKVCache(cache, rows, device)
        stepper = Stepper(model, self.fixed, rows, steps)
        aside: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(aside):  # what kernels set up at first use can't be recorded
            stepper.step(self.tokens)
        torch.cuda.current_stream(device).wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = stepper.step(self.tokens)

    def step(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, V) of the token after each of tokens (B,), int64."""
        self.tokens.copy_(tokens)
        self.fixed.next.fill_(self.cache.length)
        self.graph.replay()
        self.cache.length += 1
        return self.logits


class _Layer:
    """`Block.forward` of one token per row."""

    def __init__(self, block: Block, sort: bool, rows: int) -> None:
        attention, ffn = block.attention, block.ffn
        self.attention, self.place = attention, attention.layer
        self.H, self.G = attention.heads, attention.kv_heads
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm
        self.gated = ffn.gated
        self.qkv, self.output, self.down = (
            _projection(layer.whole_weight, layer.bias, sort, rows)
            for layer in (attention.qkv, attention.output, ffn.down)
        )
        self.up = _projection(
            ffn.up.whole_weight, ffn.up.bias, sort, rows, None if ffn.gated else ffn.gelu
        )

    def __call__(
        self, x: Tensor, rotary: Rotary | None, cache: KVCache, mask: Tensor | None
    ) -> Tensor:
        """x (B, D) with what attention and feed-forward add: (B, D)."""
        x = x + self.output(self.attend(self.qkv(self.attention_norm(x)), rotary, cache, mask))
        hidden = self.up(self.ffn_norm(x))  # (B, F), or (B, 2F) when gated
        if self.gated:
            gate, value = hidden.chunk(2, -1)  # each (B, F)
            hidden = functional.silu(gate) * value
        return x + self.down(hidden)

    def attend(
        self, qkv: Tensor, rotary: Rotary | None, cache: KVCache, mask: Tensor | None
    ) -> Tensor:
        """Weighted sums of the cached values by what the new queries find: (B, H x K)."""
        own = self.attention
        qkv = qkv.view(len(qkv), 1, self.H + 2 * self.G, -1)  # (B, 1, H + 2G, K)
        if rotary is not None or own.qk_norm:
            qk, v = qkv.split_with_sizes((self.H + self.G, self.G), 2)
            if own.qk_norm:
                qk = own.normed(qk)
            qkv = torch.cat((qk if rotary is None else rotate(qk, rotary), v), 2)
        # (B, H or G, 1, K)
        q, k, v = qkv.transpose(1, 2).split_with_sizes((self.H, self.G, self.G), 1)
        keys, values = cache.extend(self.place, k, v)  # (B, G, S, K)
        y = functional.scaled_dot_product_attention(
            q, keys, values, attn_mask=mask, enable_gqa=self.H != self.G
        )  # (B, H, 1, K)
        return y.flatten(1)


def _projection(
    weight: Tensor, bias: Tensor | None, sort: bool, rows: int, gelu: str | None = None
) -> Projection:
    """x (B, inputs) -> x @ weight^T + bias, and the GELU of it where one is named."""
    if sort:
        return sorted_projection(weight, bias, rows, gelu)
    if gelu:
        return lambda x: functional.gelu(functional.linear(x, weight, bias), approximate=gelu)
    return lambda x: functional.linear(x, weight, bias)


def _sorting_pays(model: GPT, weight: Tensor, rows: int) -> bool:
    """Whether to keep a second copy of the weights in the order that oneDNN reads them."""
    few = weight.dtype == torch.float32 and rows < FEW_ROWS
    if few or torch.is_autocast_enabled("cpu"):
        return False
    size = sum(each.nbytes for each in model.parameters())
    return size <= MOST_SORTED_BYTES and sorts(weight)
