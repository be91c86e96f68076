"""The weights that models start from, found, verified and compared before anything starts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from models.configs import ModelConfig
from models.formulas.adapters import stands_beside
from orchestrator.config import JobConfig
from orchestrator.stages import Outline
from orchestrator.stages.weights import verified_weights

if TYPE_CHECKING:
    from orchestrator.training.checkpoint import Weights


def find_weights(outline: Outline) -> Mapping[str, "Weights"]:
    """The verified weights of each role whose model names some, by role.

    Raises:
        ValueError: nothing valid is there, or it is of another architecture or shape; names the
            first tensor or setting that differs. Or an adapter stands beside random weights.
    """
    for name, role in outline.roles.items():
        model = role.config.model
        if stands_beside(model) and model.weights is None:
            raise ValueError(
                "model.adapter trains a few parameters beside weights that stay, and those of the "
                f"role {name} would be random; add model.weights=RUN, or leave the adapter out"
            )
    named = {
        name: role.config.model
        for name, role in outline.roles.items()
        if role.config.model.weights is not None
    }
    return {name: _open(name, model) for name, model in named.items()}


def pinned(config: JobConfig, weights: Mapping[str, "Weights"]) -> JobConfig:
    """The job with each role's weights by their own folder; a run folder gets newer ones."""
    for name, found in weights.items():
        path = str(found.path)
        own = config.roles.get(name)
        if own is not None and "weights" in own.model:
            own = replace(own, model={**own.model, "weights": path})
            config = replace(config, roles={**config.roles, name: own})
        elif config.model.weights is not None:
            config = replace(config, model=replace(config.model, weights=path))
    return config


def _open(role: str, model: ModelConfig) -> "Weights":
    from orchestrator.training.materialise import on_meta
    from orchestrator.training.state import check_parameters
    from orchestrator.training.transfer import transferred

    assert model.weights is not None
    found = verified_weights(model.weights, model.weights_role, allow_pickle=model.allow_pickle)
    try:
        shapes = {name: tuple(p.shape) for name, p in on_meta(model).named_parameters()}
        reader = transferred(found.reader, model, seed=0)
        check_parameters(reader, shapes)
        _check_settings(model, found.model_config)
    except ValueError as error:
        raise ValueError(f"model.weights={model.weights} for the role {role}: {error}") from None
    return found._replace(differs=tuple(reader.lines()))


def _check_settings(model: ModelConfig, saved: ModelConfig | None) -> None:
    """Compare what the weights would compute otherwise, such as the number of heads."""
    if saved is None:
        return
    for name in ("family", *model.shapeless):
        ours, theirs = getattr(model, name), getattr(saved, name, None)
        if ours != theirs:
            raise ValueError(f"model.{name}={ours} must be {theirs}, as the weights were trained")
