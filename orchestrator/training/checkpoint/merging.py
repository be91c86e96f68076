"""Saved state of an adapted model read as that of the plain one, its updates in its weights.

I inputs, O outputs, r rank.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.configs import GPTConfig, HFConfig, ModelConfig
from models.formulas.adapters import MARK, Rows, merged_config, updated
from orchestrator.training.state import WEIGHT, StateReader


@dataclass(frozen=True)
class Merged:
    """A StateReader of weights alone: those saved, and scale x B A where there is an update."""

    saved: StateReader
    config: GPTConfig | HFConfig

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
        for place, rows in self._rows(name).items():
            I = self.shape(name)[1]
            first, last = max(rows[0], start // I), min(rows[1], -(-stop // I))
            if first < last:  # rows of the weight with something of both
                change = self._update(place, first - rows[0], last - rows[0]).flatten()
                low, high = max(start, first * I), min(stop, last * I)
                found[low - start : high - start] += change[low - first * I : high - first * I]
        return found

    def _rows(self, name: str) -> dict[str, Rows]:
        """Updates in a parameter, by their names; none if it is no updated weight."""
        module = name.removesuffix(f".{WEIGHT}")
        if module == name:
            return {}
        if isinstance(self.config, HFConfig):  # an update is of all rows of its layer
            own = f"{module}.lora"
            return {own: (0, self.shape(name)[0])} if f"{own}.a" in self.saved.names() else {}
        found = updated(self.config).get(module.partition(".")[2].partition(".")[2], {})
        return {f"{module}.lora.{target}": rows for target, rows in found.items()}

    def _update(self, place: str, first: int, last: int) -> Tensor:
        """Rows [first, last) of scale x B A: (last - first, I)."""
        r, I = self.saved.shape(f"{place}.a")
        a = self.saved.read(f"{place}.a", WEIGHT, 0, r * I).view(r, I)
        b = self.saved.read(f"{place}.b", WEIGHT, first * r, last * r).view(-1, r)
        return torch.matmul(b, a) * (self.config.adapter_alpha / r)


def merged(
    saved: StateReader, config: ModelConfig | None
) -> tuple[StateReader, ModelConfig | None]:
    """Saved state and its config as those of a plain model; as they are if it is one."""
    if not isinstance(config, GPTConfig | HFConfig) or config.adapter != "lora":
        return saved, None if config is None else merged_config(config)
    return Merged(saved, config), merged_config(config)
