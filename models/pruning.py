"""Pruning: weights that count least become zero, or heads and neurons that do are taken out.

What is zero stays zero in a model of `model.sparse=true`: no gradient reaches it, and no mask has
to be kept beside the weights, whatever the engine.

D model width, I inputs, O outputs, H query heads, G key and value heads, K head width, F
feed-forward width.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from models.configs import GPTConfig
from models.layers import Linear
from models.projection import project

PROJECTIONS = ("attention.qkv", "attention.output", "ffn.up", "ffn.down")
"""Of a block: where nearly all weights are. Tables of tokens and positions stay whole."""
Tensors = dict[str, Tensor]


class SparseLinear(Linear):
    """A projection of whose weights those that are zero stay so."""

    def __init__(self, own: Linear) -> None:
        """Take the place of a projection."""
        outputs, inputs = own.weight.shape
        super().__init__(inputs, outputs, bias=own.bias is not None, std=own.std)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (..., I) @ weight^T + bias, (..., O); zeros get no gradient."""
        return project(x, self.weight * (self.weight != 0), self.bias)


def keep_zeros(model: nn.Module) -> None:
    """Let zeros of the projections of a new model stay zeros."""
    for block in cast(nn.ModuleList, model.blocks):
        for name in PROJECTIONS:
            block.set_submodule(name, SparseLinear(cast(Linear, block.get_submodule(name))))


def names_of(config: GPTConfig) -> list[str]:
    """Names of the weights that can become zero."""
    return [f"blocks.{n}.{name}.weight" for n in range(config.layers) for name in PROJECTIONS]


def by_magnitude(
    tensors: Mapping[str, Tensor], config: GPTConfig, sparsity: float
) -> tuple[Tensors, GPTConfig]:
    """A model whose weights of the least size are zero (Han et al. 2015, arXiv:1506.02626).

    Weights of all blocks are compared with each other: some layers lose more than others.

    Args:
        tensors: of the model, by name.
        config: of the model.
        sparsity: share of the weights of the blocks' projections that becomes zero, above 0 and
            below 1.
    """
    names = names_of(config)
    sizes = torch.cat([tensors[name].abs().flatten() for name in names])
    lost = round(sparsity * len(sizes))
    limit = sizes.kthvalue(lost).values if lost else sizes.new_tensor(-1.0)
    pruned = {n: tensors[n].masked_fill(tensors[n].abs() <= limit, 0) for n in names}
    return {**tensors, **pruned}, replace(config, sparse=True)


def by_pattern(
    tensors: Mapping[str, Tensor], config: GPTConfig, kept: int, of: int
) -> tuple[Tensors, GPTConfig]:
    """A model that keeps the largest `kept` of every `of` weights in a row (Mishra et al. 2021,
    arXiv:2104.08378), such as 2 of 4, which GPUs multiply faster.

    Raises:
        ValueError: inputs of a projection are no multiple of `of`.
    """
    pruned = {}
    for name in names_of(config):
        weight = tensors[name]
        if weight.shape[1] % of:
            raise ValueError(
                f"--pattern {kept}:{of} needs rows of a multiple of {of} weights, and {name} has "
                f"{weight.shape[1]}"
            )
        groups = weight.view(len(weight), -1, of)  # (O, I / of, of)
        best = groups.abs().topk(kept, -1).indices
        pruned[name] = (
            torch.zeros_like(groups).scatter(-1, best, groups.gather(-1, best)).flatten(1)
        )
    return {**tensors, **pruned}, replace(config, sparse=True)


def without_neurons(
    tensors: Mapping[str, Tensor], config: GPTConfig, left: int
) -> tuple[Tensors, GPTConfig]:
    """A model with `left` units in each feed-forward: those by whose weights most passes, |what
    goes in| x |what goes out|, as norms.
    """
    F, gated, smaller = config.feed_forward_width, config.activation == "swiglu", dict(tensors)
    for block in (f"blocks.{n}.ffn" for n in range(config.layers)):
        up = tensors[f"{block}.up.weight"].view(1 + gated, F, -1)  # gate and value, or one
        down = tensors[f"{block}.down.weight"]  # (D, F)
        kept = _best(up.norm(dim=-1).prod(0) * down.norm(dim=0), left)
        smaller[f"{block}.up.weight"] = up[:, kept].flatten(0, 1)
        smaller[f"{block}.down.weight"] = down[:, kept].contiguous()
        if (bias := tensors.get(f"{block}.up.bias")) is not None:
            smaller[f"{block}.up.bias"] = bias.view(1 + gated, F)[:, kept].flatten()
    return smaller, replace(config, ffn_width=left)


def without_heads(
    tensors: Mapping[str, Tensor], config: GPTConfig, left: int
) -> tuple[Tensors, GPTConfig]:
    """A model with `left` query heads in each attention (Michel et al. 2019, arXiv:1905.10650):
    those by whose values most passes. Heads that share keys and values stay or go together.

    Raises:
        ValueError: `left` is no multiple of the heads that share keys.
    """
    H, G, K = config.heads, config.key_value_heads, config.head_width
    shared = H // G
    if left % shared:
        raise ValueError(
            f"--heads {left} must be a multiple of the {shared} that share keys and values; "
            f"nearest: {max(1, left // shared) * shared}"
        )
    smaller = dict(tensors)
    for block in (f"blocks.{n}.attention" for n in range(config.layers)):
        output = tensors[f"{block}.output.weight"]  # (D, H K)
        parts = tensors[f"{block}.qkv.weight"].view(H + 2 * G, K, -1)  # (H + 2G, K, D)
        out = output.view(-1, G, shared * K).norm(dim=(0, 2))
        kept = _best(out * parts[H + G :].norm(dim=(1, 2)), left // shared)  # of G
        queries = (kept[:, None] * shared + torch.arange(shared)).flatten()  # of H
        rows = torch.cat([queries, H + kept, H + G + kept])
        smaller[f"{block}.qkv.weight"] = parts[rows].flatten(0, 1)
        smaller[f"{block}.output.weight"] = output.view(-1, H, K)[:, queries].flatten(1)
        if (bias := tensors.get(f"{block}.qkv.bias")) is not None:
            smaller[f"{block}.qkv.bias"] = bias.view(-1, K)[rows].flatten()
    return smaller, replace(config, heads=left, kv_heads=left // shared, head_dim=K)


def _best(worth: Tensor, left: int) -> Tensor:
    """Places of the `left` largest of worth (n,), in order."""
    return worth.topk(left).indices.sort().values
