"""Parameter-efficient tuning: a model whose own weights stay, and few of which, or others, learn.

lora        to the weights W (O, I) of a projection is added scale x B A, with A (r, I) and
            B (O, r); scale is alpha / r (Hu et al. 2021, arXiv:2106.09685, section 4.1)
bottleneck  what attention and feed-forward give, y, becomes y + U gelu(D y + c) + b
            (Houlsby et al. 2019, arXiv:1902.00751, section 2.1)
bias        biases alone are trained (BitFit, Ben Zaken et al. 2021, arXiv:2106.10199)

The first can be merged into the weights; the second stays a part of the model.

I inputs, O outputs, r rank, or units of a bottleneck.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.configs import GPTConfig
from models.dropout import Dropout, number_dropouts
from models.formulas.adapters import NARROWED, Rows, updated
from models.layers import Linear


class LowRank(nn.Module):
    """The update of one target: x -> scale x B A x, zero before training."""

    def __init__(self, inputs: int, outputs: int, config: GPTConfig) -> None:
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


def adapt(model: nn.Module, config: GPTConfig) -> None:
    """Freeze a model but for what its config says is trained, which is made here."""
    model.requires_grad_(False)
    if config.adapter == "bias":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith(".bias"))
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
    kinds = (LowRank, Bottleneck)
    return {name: own for name, own in model.named_modules() if isinstance(own, kinds)}
