"""Saved state of an adapted model read as that of the plain one, its updates in its weights.

I inputs, O outputs, r rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.configs import GPTConfig, ModelConfig
from models.formulas.adapters import MARK, Rows, merged_config, updated
from orchestrator.training.state import WEIGHT, StateReader


@dataclass(frozen=True)
class Merged:
    """A StateReader of weights alone: those saved, and scale x B A where there is an update."""

    saved: StateReader
    config: GPTConfig

    def names(self) -> Iterator[str]:
        """Names of the parameters of the plain model."""
        return (name for name in self.saved.names() if MARK not in name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return self.saved.shape(name)

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter: its weight."""
        return frozenset({WEIGHT})

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of the flattened weight, fp32."""
        found = self.saved.read(name, key, start, stop)
        for target, rows in self._rows(name).items():
            I = self.shape(name)[1]
            first, last = max(rows[0], start // I), min(rows[1], -(-stop // I))
            if first < last:  # rows of the weight with something of both
                change = self._update(name, target, first - rows[0], last - rows[0]).flatten()
                low, high = max(start, first * I), min(stop, last * I)
                found[low - start : high - start] += change[low - first * I : high - first * I]
        return found

    def _rows(self, name: str) -> dict[str, Rows]:
        """Targets in a parameter; none if it is no updated weight."""
        block, _, projection = name.removesuffix(f".{WEIGHT}").partition(".")[2].partition(".")
        found = updated(self.config).get(projection, {}) if block else {}
        return found if name.endswith(f".{WEIGHT}") else {}

    def _update(self, name: str, target: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of scale x B A: (last - first, I)."""
        prefix = f"{name.removesuffix(WEIGHT)}lora.{target}"
        r, I = self.saved.shape(f"{prefix}.a")
        a = self.saved.read(f"{prefix}.a", WEIGHT, 0, r * I).view(r, I)
        b = self.saved.read(f"{prefix}.b", WEIGHT, first * r, last * r).view(-1, r)
        return torch.matmul(b, a) * (self.config.adapter_alpha / r)


def merged(
    saved: StateReader, config: ModelConfig | None
) -> tuple[StateReader, ModelConfig | None]:
    """Saved state and its config as those of a plain model; as they are if it is one."""
    if not isinstance(config, GPTConfig) or config.adapter != "lora":
        return saved, None if config is None else merged_config(config)
    return Merged(saved, config), merged_config(config)
