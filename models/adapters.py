"""Parameter-efficient tuning: a model whose own weights stay, and few of which, or others, learn.

lora        to the weights W (O, I) of a projection is added scale x B A, with A (r, I) and
            B (O, r); scale is alpha / r (Hu et al. 2021, arXiv:2106.09685, section 4.1)
bottleneck  what attention and feed-forward give, y, becomes y + U gelu(D y + c) + b
            (Houlsby et al. 2019, arXiv:1902.00751, section 2.1)
bias        biases alone are trained (BitFit, Ben Zaken et al. 2021, arXiv:2106.10199)
prompt      P vectors stand before those of the tokens of each text (Lester et al. 2021,
            arXiv:2104.08691)
prefix      P keys and values do, in each layer (Li and Liang 2021, arXiv:2101.00190): what is left
            of theirs after training; what makes them there meanwhile is spared here

The first can be merged into the weights, the third is in them; the others stay a part of the model.
Virtual tokens come before all positions: rotary ones count down from the first of a text, and
vectors that are learned need no others added.

D model width, I inputs, O outputs, r rank, or units of a bottleneck, L layers, G key and value
heads, P virtual tokens, K head width.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.cache import KeysValues
from models.configs import GPTConfig, HFConfig
from models.dropout import Dropout, number_dropouts
from models.formulas.adapters import NARROWED, Rows, updated, virtual_tensors
from models.layers import Linear


class LowRank(nn.Module):
    """The update of one target: x -> scale x B A x, zero before training."""

    def __init__(self, inputs: int, outputs: int, config: GPTConfig | HFConfig) -> None:
        """Make A and B."""
        super().__init__()
        self.scale = config.adapter_alpha / config.adapter_rank
        self.dropout = Dropout(config.adapter_dropout)
        self.a = nn.Parameter(torch.empty(config.adapter_rank, inputs))
        self.b = nn.Parameter(torch.empty(outputs, config.adapter_rank))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw A uniformly within 1 / sqrt(I), as loralib and peft do, and set B to zero."""
        if not self.a.is_meta:
            bound = self.a.shape[1] ** -0.5
            nn.init.uniform_(self.a, -bound, bound)
            nn.init.zeros_(self.b)

    def forward(self, x: Tensor) -> Tensor:
        """The update of x (..., I): (..., O)."""
        return functional.linear(functional.linear(self.dropout(x), self.a), self.b) * self.scale


class UpdatedLinear(Linear):
    """A projection with low-rank updates of some of its outputs."""

    def __init__(self, own: Linear, rows: Mapping[str, Rows], config: GPTConfig) -> None:
        """Take the place of a projection.

        Args:
            own: the projection.
            rows: of its weights, by the name of the target that they are.
            config: of the model.
        """
        outputs, inputs = own.weight.shape
        super().__init__(inputs, outputs, bias=own.bias is not None, std=own.std)
        self.rows = dict(rows)
        self.lora = nn.ModuleDict(
            {name: LowRank(inputs, stop - start, config) for name, (start, stop) in rows.items()}
        )

    def forward(self, x: Tensor) -> Tensor:
        """x @ weight^T + bias + updates: (..., O)."""
        y = super().forward(x)
        for name, (start, stop) in self.rows.items():
            # Not +=, which assigns the slice to itself: of the whole, where nothing before it
            # learns, autograd refuses that.
            y[..., start:stop].add_(self.lora[name](x))
        return y

    @property
    def whole_weight(self) -> Tensor:
        """The weights (O, I) with their updates."""
        weight = self.weight.clone()
        for name, (start, stop) in self.rows.items():
            own = cast(LowRank, self.lora[name])
            weight[start:stop] += own.scale * (own.b @ own.a)
        return weight


class Bottleneck(nn.Module):
    """A layer of few units beside a shortcut; it changes nothing before training."""

    def __init__(self, width: int, units: int) -> None:
        """Make both projections."""
        super().__init__()
        self.down = nn.Parameter(torch.empty(units, width))
        self.down_bias = nn.Parameter(torch.empty(units))
        self.up = nn.Parameter(torch.empty(width, units))
        self.up_bias = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the way down as normal(0, 0.01), as Houlsby et al. do, and set the rest to zero."""
        if not self.down.is_meta:
            nn.init.normal_(self.down, std=0.01)
            for rest in (self.down_bias, self.up, self.up_bias):
                nn.init.zeros_(rest)

    def forward(self, y: Tensor) -> Tensor:
        """y (..., O) with what is added to it."""
        units = functional.gelu(functional.linear(y, self.down, self.down_bias))
        return y + functional.linear(units, self.up, self.up_bias)


class NarrowedLinear(Linear):
    """A projection behind which a bottleneck stands."""

    def __init__(self, own: Linear, units: int) -> None:
        """Take the place of a projection."""
        outputs, inputs = own.weight.shape
        super().__init__(inputs, outputs, bias=own.bias is not None, std=own.std)
        self.bottleneck = Bottleneck(outputs, units)

    def forward(self, x: Tensor) -> Tensor:
        """The projection of x (..., I), and what the bottleneck adds: (..., O)."""
        narrowed: Tensor = self.bottleneck(super().forward(x))
        return narrowed


class Prompt(nn.Module):
    """Vectors that stand before those of the tokens of each text."""

    def __init__(self, config: GPTConfig) -> None:
        """Make them."""
        super().__init__()
        self.std = config.init_std
        self.vectors = nn.Parameter(torch.empty(virtual_tensors(config)["prompt.vectors"]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw them as vectors of tokens are drawn; beside weights they begin as such vectors."""
        if not self.vectors.is_meta:
            nn.init.normal_(self.vectors, std=self.std)

    def forward(self) -> Tensor:
        """All of them, (P, D)."""
        return self.vectors


class Prefix(nn.Module):
    """Keys and values that stand before those of the tokens of each text, in each layer."""

    def __init__(self, config: GPTConfig) -> None:
        """Make them."""
        super().__init__()
        self.std = config.init_std
        shapes = virtual_tensors(config)
        self.keys = nn.Parameter(torch.empty(shapes["prefix.keys"]))
        self.values = nn.Parameter(torch.empty(shapes["prefix.values"]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw both as normal(0, std)."""
        for own in (self.keys, self.values):
            if not own.is_meta:
                nn.init.normal_(own, std=self.std)

    def forward(self) -> list[KeysValues]:
        """Of each layer both, (1, G, P, K)."""
        return list(zip(self.keys[:, None], self.values[:, None], strict=True))


def adapt(model: nn.Module, config: GPTConfig) -> None:
    """Freeze a model but for what its config says is trained, which is made here."""
    model.requires_grad_(False)
    if config.adapter == "prompt":
        model.prompt = Prompt(config)
    elif config.adapter == "prefix":
        model.prefix = Prefix(config)
    if config.adapter == "bias":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))
    if config.value_head:  # no weights tell it
        cast(nn.Module, model.value).requires_grad_(True)
    for block in cast(nn.ModuleList, model.blocks):
        for name in NARROWED if config.adapter == "bottleneck" else updated(config):
            own = cast(Linear, block.get_submodule(name))
            made: Linear
            if config.adapter == "bottleneck":
                made = NarrowedLinear(own, config.adapter_rank)
            else:
                made = UpdatedLinear(own, updated(config)[name], config)
            for parameter in made.parameters(recurse=False):
                parameter.requires_grad_(False)
            block.set_submodule(name, made)
    number_dropouts(model)


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """What an adapter has added to a model, by name."""
    kinds = (LowRank, Bottleneck, Prompt, Prefix)
    return {name: own for name, own in model.named_modules() if isinstance(own, kinds)}
