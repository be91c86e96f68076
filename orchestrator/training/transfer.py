"""Weights of one task as the start of a model for another, whose output layer begins anew."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.adapters import Prompt, parts_of
from models.configs import ModelConfig
from orchestrator.training.materialise import materialise, on_meta
from orchestrator.training.state import WEIGHT, StateReader


@dataclass(frozen=True)
class Transferred:
    """Saved weights as a StateReader, with other output layers."""

    saved: StateReader
    drawn: Mapping[str, Tensor]
    """Initial values of the tensors that begin anew, by name."""
    left: tuple[str, ...]
    """Tensors of the saved weights that are left behind."""

    def lines(self) -> list[str]:
        """What is not as it was saved, for a plan; nothing where everything is."""
        if not self.drawn and not self.left:
            return []
        taken = sum(name not in self.drawn for name in self.names())
        anew, left = (", ".join(names) or "none" for names in (self.drawn, self.left))
        return [f"{taken} tensors taken; begin anew: {anew}; left behind: {left}"]

    def names(self) -> Iterator[str]:
        """Of what is taken, then of what begins anew."""
        yield from (name for name in self.saved.names() if name not in self.left)
        yield from self.drawn

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a parameter."""
        return tuple(self.drawn[name].shape) if name in self.drawn else self.saved.shape(name)

    def keys(self, name: str) -> frozenset[str]:
        """What is stored of a parameter."""
        return frozenset({WEIGHT}) if name in self.drawn else self.saved.keys(name)

    def read(self, name: str, key: str, start: int, stop: int) -> Tensor:
        """Elements [start, stop) of a flattened tensor."""
        if name in self.drawn:
            return self.drawn[name].flatten()[start:stop]
        return self.saved.read(name, key, start, stop)


def transferred(saved: StateReader, model: ModelConfig, seed: int) -> Transferred:
    """What a model takes of saved weights: all but output layers of its family that differ.

    What an adapter adds begins anew, too, unless the saved weights have it: those of a run with
    updates come with them merged. A prompt begins as the vectors of some tokens (Lester et al.
    2021, section 3.2).

    Whether all else is there is for the caller to check (`check_parameters`).

    Args:
        saved: whole weights of a model of its family.
        model: with everything filled in.
        seed: of what begins anew.
    """
    made = on_meta(model)
    own = {name: tuple(p.shape) for name, p in made.named_parameters()}
    theirs = {name: saved.shape(name) for name in saved.names()}
    drawn: dict[str, Tensor] = {}
    left: list[str] = []
    for head in model.output_layers:
        here, there = (
            {name: shape for name, shape in names.items() if name.startswith(f"{head}.")}
            for names in (own, theirs)
        )
        if here == there:
            continue
        left += there
        if here:
            part = made.get_submodule(head)
            materialise(part, torch.device("cpu"), seed=seed)
            drawn |= {f"{head}.{name}": p.detach() for name, p in part.named_parameters()}
    adapters = {
        place: part
        for place, part in parts_of(made).items()
        if not all(f"{place}.{name}" in theirs for name, _ in part.named_parameters())
    }
    materialise(nn.ModuleList(adapters.values()), torch.device("cpu"), seed=seed)
    for place, part in adapters.items():
        if isinstance(part, Prompt):
            part.vectors.data = _some_rows(saved, "embedding.weight", len(part.vectors), seed)
        drawn |= {f"{place}.{name}": p.detach() for name, p in part.named_parameters()}
    return Transferred(saved, drawn, tuple(left))


def _some_rows(saved: StateReader, name: str, count: int, seed: int) -> Tensor:
    """Rows of a saved table (rows, width), drawn with replacement: (count, width)."""
    rows, width = saved.shape(name)
    places = torch.randint(rows, (count,), generator=torch.Generator().manual_seed(seed))
    found = [saved.read(name, WEIGHT, n * width, (n + 1) * width) for n in places.tolist()]
    return torch.stack(found)
