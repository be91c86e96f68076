"""Roles: the models of a job, each with a purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_type_hints

from models.configs import GPTConfig, ModelConfig
from orchestrator.config.engine import EngineConfig
from orchestrator.config.optim import OWN_SETTINGS, OptimConfig

Section = TypeVar("Section", ModelConfig, EngineConfig, OptimConfig)


@dataclass
class RoleSettings:
    """What a role has of its own; the rest is that of the job's sections of the same names."""

    model: dict[str, Any] = field(default_factory=dict)
    """Settings of the model, for example {width: 64, weights: outputs/latest}."""
    engine: dict[str, Any] = field(default_factory=dict)
    """Settings of its engine, for example {zero_stage: 3}."""
    optim: dict[str, Any] = field(default_factory=dict)
    """Settings of its optimizer, for example {learning_rate: 1e-4}."""


@dataclass(frozen=True)
class RoleConfig:
    """A model with a purpose: which one, from where, carried out by what, and how it learns."""

    model: ModelConfig
    """`model.weights` is where its weights come from; None: random."""
    engine: EngineConfig
    optim: OptimConfig | None
    """None: it is not trained."""

    def __post_init__(self) -> None:
        """Check that the engine can carry out the optimizer, and that it keeps zeros."""
        if self.optim is None:
            return
        self.optim.check_engine(self.engine)
        if self.optim.name == "muon" and isinstance(self.model, GPTConfig) and self.model.sparse:
            raise ValueError(
                "optim.name=muon mixes the gradients of all weights of a matrix, and would fill "
                "the zeros that model.sparse=true keeps; try optim=adamw"
            )

    def check_recomputation(self) -> None:
        """Raise ValueError if the engine shall recompute what the model always keeps."""
        if self.engine.activation_checkpointing and not self.model.recomputes:
            raise ValueError(
                f"engine.activation_checkpointing=true is not for model.family="
                f"{self.model.family}, which keeps all activations; try "
                "engine.activation_checkpointing=false"
            )

    def unread(self) -> dict[str, str]:
        """Settings of its sections that change nothing in this role, and what they are for."""
        trained = self.optim is not None
        sections = {
            "model": self.model.unread(),
            "engine": self.engine.unread(trained=trained),
            "optim": {} if self.optim is None else self.optim.unread(),
        }
        found = {f"{name}.{key}": why for name, own in sections.items() for key, why in own.items()}
        return found if trained else found | {"optim": "this role is not trained"}


def merged(where: str, section: Section, own: Mapping[str, Any]) -> Section:
    """The section with a role's own settings; its checks run again.

    Raises:
        ValueError: the section has no such setting, or one of another type; names it as the user
            typed it.
    """
    if not own:
        return section
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    typed = OmegaConf.structured(type(section))
    known = [f.name for f in fields(section)]
    for name, value in own.items():
        if name not in known:
            raise ValueError(f"{where}.{name}: there is no such setting; {', '.join(known)}")
        try:
            typed[name] = value
        except OmegaConfBaseException:
            kind = get_type_hints(type(section))[name]
            raise ValueError(
                f"{where}.{name}={value} must be of type {getattr(kind, '__name__', kind)}, such "
                f"as the job's own {getattr(section, name)}"
            ) from None
    plain = OmegaConf.to_container(typed)
    assert isinstance(plain, dict)  # a section, with a value for each setting
    own = {name: plain[name] for name in own}
    if isinstance(section, OptimConfig) and own.get("name", section.name) != section.name:
        own = {**dict.fromkeys(OWN_SETTINGS), **own}  # another optimizer has its own defaults
    return replace(section, **own)
