"""Roles at work: several models in one process, each under its own engine and ZeRO stage."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from models.formulas.adapters import learns, stands_beside
from orchestrator.config import RoleConfig
from orchestrator.training import checkpoint, engine
from orchestrator.training.checkpoint import Beside, SavedRole, Weights
from orchestrator.training.engine import Engine
from orchestrator.training.state import Slice, StateReader
from orchestrator.training.transfer import transferred


@dataclass(frozen=True)
class Role:
    """A model with a purpose, and what carries it out on this rank."""

    name: str
    config: RoleConfig
    engine: Engine
    base: Weights | None = None
    """Where what an adapter stands beside is saved already."""

    @property
    def saved(self) -> SavedRole:
        """What a checkpoint keeps of it: all, or beside its base what is trained."""
        optim, model = self.config.optim, self.config.model
        name = None if optim is None else optim.name
        return SavedRole(self._state, model, name, self.base)

    def _state(self) -> Iterator[Slice]:
        model = self.config.model
        return (own for own in self.engine.state() if self.base is None or learns(model, own.name))


def build_role(
    name: str,
    config: RoleConfig,
    *,
    device: torch.device,
    seed: int,
    micro_batch: int = 1,
    accumulation_steps: int = 1,
    resumed: tuple[StateReader, int] | None = None,
) -> Role:
    """Make a role's model and engine. Every rank calls it, for the same roles in one order.

    Args:
        name: what it is for: policy, critic, reference, ...
        config: with everything filled in that the model is built from. Its weights come from
            `config.model.weights`, which the process that started the job has verified.
        device: where this rank computes.
        seed: of initial weights that come from nowhere else.
        micro_batch: samples of one forward pass on one rank.
        accumulation_steps: micro-batches of one optimizer step on one rank.
        resumed: its state in the checkpoint that the run goes on from, and the steps done then;
            it takes the place of `config.model.weights`.

    Raises:
        DifferentState: the saved state is that of another model or optimizer.
    """
    reader, resumed_step = resumed or (None, None)
    base = reader.weights if isinstance(reader, Beside) else None
    if reader is None and config.model.weights is not None:
        saved = checkpoint.open_weights(
            Path(config.model.weights), config.model.weights_role, verified=True
        )
        reader = transferred(saved.reader, config.model, seed)
        base = saved.named() if stands_beside(config.model) else None
    built = engine.build(
        config.model,
        config.engine,
        config.optim,
        device=device,
        seed=seed,
        micro_batch=micro_batch,
        accumulation_steps=accumulation_steps,
        reader=reader,
        resumed_step=resumed_step,
    )
    return Role(name, config, built, base)
